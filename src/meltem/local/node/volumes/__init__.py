"""A pod's volumes: made in the pod's directory, kept up to date, taken away. See `manager`."""
