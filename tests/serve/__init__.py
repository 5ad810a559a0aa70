"""The server, over HTTP and through its ASGI application."""
