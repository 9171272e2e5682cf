"""The door of ptychodus: the names that it imports, over the functions of this package."""
