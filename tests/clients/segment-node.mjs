// Segment's own Node SDK, unchanged: node segment-node.mjs URL WRITE_KEY USER
import { Analytics } from "@segment/analytics-node";

const [url, writeKey, userId] = process.argv.slice(2);
const analytics = new Analytics({ writeKey, host: url, maxRetries: 0, flushInterval: 100 });
const failures = [];
analytics.on("error", (error) => failures.push(error));
analytics.identify({ userId, traits: { tier: "gold" } });
analytics.page({ userId, name: "Home" });
analytics.track({ userId, event: "Product Viewed", properties: { product_id: "x", category: "toys" } });
analytics.track({
  userId,
  event: "Order Completed",
  properties: { order_id: "n-1", currency: "GBP", products: [{ product_id: "x", price: 2.55, quantity: 6, category: "toys" }] },
});
await analytics.closeAndFlush();
if (failures.length > 0) {
  console.error(failures);
  process.exit(1);
}
