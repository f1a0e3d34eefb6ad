"""`triptych bench experts`: what it costs to serve a mixture from less memory than it takes, arm by arm."""
