"""What each command does: settings become plain values, one function is called, results become files and words."""
