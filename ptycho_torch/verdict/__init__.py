"""What can be said of a reconstruction without knowing the truth: figures, a verdict, and the likeliest cause."""
