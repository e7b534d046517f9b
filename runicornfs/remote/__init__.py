"""The server: addresses, host keys, logging in, sessions, and transfers of ranges over one SSH connection.

`server.Server` is what the parts above use. Everything that comes from the other side is checked before it is believed.
"""
