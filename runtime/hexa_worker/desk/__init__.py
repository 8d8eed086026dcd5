"""The dead-letter desk: look at dead letters, send them round again, throw them away."""
