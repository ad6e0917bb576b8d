"""The study: which token mixer is best on given data, with tests that a referee accepts."""
