"""`istioctl bug-report`: what somebody who helps needs to see of a mesh, in one archive.

`selection.py` says whose logs, `logs.py` which lines, `collect.py` what is asked and where it goes, `archive.py`
writes it, `command.py` is the verb. Nothing here changes the cluster.
"""
