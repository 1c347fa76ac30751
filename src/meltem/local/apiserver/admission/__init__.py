"""Admission: everything that may change or refuse a write, in Kubernetes' order; `chain.py` lists it."""
