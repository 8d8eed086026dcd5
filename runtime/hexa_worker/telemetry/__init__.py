"""What the worker tells about itself: counters, logs."""
