"""The way to the API server: credentials, requests, and one gate for all of them."""
