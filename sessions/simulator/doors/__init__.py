"""The ways in: beneath the SDK in this process, or over HTTP. Behind each is the same API."""
