"""Add the hospitals' whole numbers so that the server learns the sum and no part of it. Pure functions, no transport.

``hospital`` and ``server`` are the two sides, ``messages`` what passes between them, ``context`` and ``bounds`` what
all agree on first. docs/decisions/0001-secure-sum.md says what each message is for, and what all this does not protect.
"""
