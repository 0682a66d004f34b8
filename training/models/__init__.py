"""The `paper` family: LIC-TCM, SA-ICM and ICMH-FF as published, with bitstreams, training and a run-time codec."""
