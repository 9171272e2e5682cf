"""What can be said of a reconstruction without knowing the truth."""
