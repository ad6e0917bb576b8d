"""What a network looked at: token attention maps in image geometry, and pictures of a case."""
