"""How good a model is, how sure that number is, and the page that says so. safety and pipeline import from here."""
