"""What can go wrong, put to the proof: files from strangers, faults, load."""
