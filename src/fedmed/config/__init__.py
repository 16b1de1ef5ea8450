"""Settings: five YAML files hold the defaults, ``schema.py`` the types and ranges; ``load.py`` resolves them."""
