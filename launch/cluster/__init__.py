"""Workers of one run: started, supervised and restarted, on this machine or by a cluster's engine. No TensorFlow."""
