// The demo in a real browser: node storefront.mjs URL SCREENSHOT-FOLDER
// Prints what it saw as JSON; the test judges it.
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const seen = { errors: [], offers: {} };
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  let step = 0;
  const settled = () => page.waitForFunction((wanted) => Number(document.body.dataset.step) >= wanted, ++step, { timeout: 15_000 });
  const note = async (name) => {
    const grid = await page.locator("#grid [data-offer]").evaluateAll((cards) => cards.map((card) => card.dataset.offer));
    seen.offers[name] = { hero: await page.locator("#hero").getAttribute("data-offer"), grid };
    seen[name] = {
      aggregates: await page.locator("#aggregates").innerText(),
      scores: await page.locator("#scores").innerText(),
      why: await page.locator("#why").innerText(),
      identifiers: await page.locator("#identifiers li").allInnerTexts(),
    };
    await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  };
  const press = async (product, kind) => {
    await page.locator(`[data-product="${product}"] button.${kind}`).click();
    await settled();
  };
  await page.goto(url);
  await settled();
  await note("first");
  await press("T-400", "look");
  await press("T-410", "add");
  await note("browsed");
  await press("T-400", "buy");
  await note("bought");
  await press("T-400", "back");
  await note("returned");
  const account = async (kind) => {
    await page.locator(`#account button.${kind}`).click();
    await settled();
  };
  await account("sign-in");
  await note("signedIn");
  await account("forget");
  await note("forgotten");
  await account("sign-in");
  await account("sign-out");
  await note("signedOut");
  await press("F-100", "buy");
  await note("fridge");
  await press("F-100", "back");
  await note("fridgeReturned");
  await page.locator("#who").selectOption("ben");
  await settled();
  await note("simulated");
  seen.secret = (await page.content()).includes("sk_") || JSON.stringify(await page.evaluate(async () => (await fetch("session")).json())).includes("sk_");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
