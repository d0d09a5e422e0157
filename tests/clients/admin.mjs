// The admin page in a real browser: node admin.mjs URL SCREENSHOT-FOLDER ORDERS
// ORDERS is JSON: {decision, offer, key}. Prints what it saw as JSON; the test judges it.
import { chromium } from "playwright-core";

const [url, folder, orders] = process.argv.slice(2);
const { decision, offer, key } = JSON.parse(orders);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const seen = { errors: [], elsewhere: [] };
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-GB", timezoneId: "UTC" });
  const page = await context.newPage();
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  page.on("request", (request) => !request.url().startsWith(url) && !request.url().startsWith("data:") && seen.elsewhere.push(request.url()));
  page.on("dialog", (dialog) => { seen.errors.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  const ready = (view) => page.waitForFunction((wanted) => document.body.dataset.ready === wanted, view, { timeout: 15_000 });
  const note = async (name) => {
    seen[name] = await page.locator("main").innerText();
    await page.screenshot({ path: `${folder}/admin-${name}.png`, fullPage: true });
  };
  await page.goto(`${url}/admin`);
  await ready("funnels");
  if (key) {
    seen.asked = await page.locator("#access").isVisible();
    await page.locator("#key").fill("sk_wrong_key_00");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("refused").textContent !== "");
    seen.refused = await page.locator("#refused").innerText();
    await page.locator("#key").fill(key);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("access").hidden && document.querySelector("#view h1"));
    await ready("funnels");
    seen.kept = await page.evaluate(() => [location.href, document.cookie, Object.keys(localStorage), Object.keys(sessionStorage), document.documentElement.outerHTML].join(" "));
  }
  await note("funnels");
  if (offer) {
    // By the keyboard alone: the second link of the navigation, the field, the answer.
    await page.locator('nav a[data-view="offer"]').focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "offer");
    await page.keyboard.type(offer);
    await page.keyboard.press("Enter");
    await page.waitForFunction((id) => location.hash === `#/offer/${encodeURIComponent(id)}`, offer);
    await ready("offer");
    await note("offer");
    await page.locator(".reason a").first().click();
    await ready("decision");
    seen.sampled = page.url();
  }
  if (decision) {
    await page.goto(`${url}/admin/#/decision/${decision}`);
    await ready("decision");
    await page.locator("summary").evaluateAll((all) => all.forEach((one) => one.click()));
    await note("decision");
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: `${folder}/admin-decision-dark.png`, fullPage: true });
    await page.emulateMedia({ colorScheme: "light" });
    await page.goto(`${url}/admin/#/decision/nobody`);
    await page.waitForFunction(() => document.querySelector("#view .fault"));
    seen.unknown = await page.locator("#view .fault").innerText();
    await page.goto(`${url}/admin/#/experiments`);
    await ready("experiments");
    await note("experiments");
    await page.goto(`${url}/admin/#/audiences`);
    await ready("audiences");
    await page.getByRole("button", { name: "All" }).first().click();
    await page.waitForFunction(() => / of [0-9]/.test(document.querySelector("td [role=status]").textContent));
    await note("audiences");
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(`${url}/admin/#/offer/${encodeURIComponent(offer)}`);
    await ready("offer");
    seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.screenshot({ path: `${folder}/admin-offer-narrow.png`, fullPage: true });
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
