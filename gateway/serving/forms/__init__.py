"""The form of each route: how a request is read, and how judged events are written."""
