"""What the operator of a site does at the command line: keys of machines, users of the station, their tokens."""
