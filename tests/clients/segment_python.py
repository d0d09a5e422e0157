"""Segment's own Python SDK, unchanged: python segment_python.py URL WRITE_KEY USER"""

import sys

import segment.analytics as analytics

url, write_key, user = sys.argv[1:]
failures = []
analytics.host = url
analytics.write_key = write_key
analytics.gzip = True
analytics.max_retries = 0
analytics.on_error = lambda error, items: failures.append(error)
analytics.identify(user, {"tier": "silver"})
analytics.page(user, "", "Home")
analytics.track(user, "Product Added", {"product_id": "x", "category": "garden"})
analytics.track(
    user,
    "Order Completed",
    {"order_id": "p-1", "products": [{"product_id": "y", "price": 12.75, "quantity": 2}]},
)
analytics.flush()
sys.exit(1 if failures else 0)
