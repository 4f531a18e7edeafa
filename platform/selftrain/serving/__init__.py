"""The parts of the endpoint, in the order that a request meets them; `serve/app.py` makes a Ray Serve deployment of them.

listener        the HTTP server of a replica: connections, the size and time of heads
gate            host and headers (headers.py), the token (passwords.py), the body; counts answers (metrics.py)
routes          the paths; schemas.py has their bodies
dispatch        from a request to a model, with a language model's continuations (language_model.py) where asked for
models          the models by name, and the registry's champion; sources.py says where they come from
batching        the thread that classifies waiting texts
arguments       what a Serve config file says
page            the pages in a browser: page.html, page.css, page.js, page_csv.js
"""
