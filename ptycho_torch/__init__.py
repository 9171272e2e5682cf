"""Self-supervised ptychographic reconstruction: diffraction patterns and positions in, a complex picture out."""

__version__ = "0.1.0"
