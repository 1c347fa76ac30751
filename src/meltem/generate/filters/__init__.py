"""The filters of a listener, one file a concern; `chain.py` puts them in Istio's order."""
