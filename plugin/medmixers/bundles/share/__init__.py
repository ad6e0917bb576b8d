"""Pack a bundle and its weights into one zip, and open one."""
