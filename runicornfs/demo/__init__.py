"""What `runicornfs demo` and the tests are made of: a private SSH server and a store as the SDK writes it.

Nothing here is needed to use a real server, and no other part of the package imports it.
"""
