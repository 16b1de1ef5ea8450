"""The one room that knows Flower: how its processes start, and the relays at both ends of its line.

    coordinator (transport) ─ line ─ server_app │ SuperLink behind door ═ TLS ═ SuperNode │ client_app ─ worker

Flower carries signed bytes and is believed in nothing: not who sends, not what arrives, not that it arrives once.
"""
