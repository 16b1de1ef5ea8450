"""The page that people ask on and look at a federation on. serving -> HERE -> cli. Extra: ``serve``."""
