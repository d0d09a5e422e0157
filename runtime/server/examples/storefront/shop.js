// The page's one script: it tells the edge what the visitor does and shows what the edge answers.
"use strict";

const PRODUCTS = [
  {id: "22423", title: "Regency cakestand, 3 tiers", category: "kitchen", price: 12.75},
  {id: "K-100", title: "Enamel kettle, 2 l", category: "kitchen", price: 24.5},
  {id: "K-110", title: "Linen apron", category: "kitchen", price: 18},
  {id: "K-120", title: "Cake tins, set of 3", category: "kitchen", price: 9.95},
  {id: "G-200", title: "Copper watering can", category: "garden", price: 29},
  {id: "G-210", title: "Herb planter", category: "garden", price: 15.5},
  {id: "G-230", title: "Glass bird feeder", category: "garden", price: 13.25},
  {id: "L-300", title: "Paper lanterns, string of 10", category: "light", price: 16},
  {id: "85123A", title: "Hanging heart tea-light holder", category: "light", price: 2.55},
  {id: "L-310", title: "Brass reading lamp", category: "light", price: 46},
  {id: "T-400", title: "Wooden train", category: "toys", price: 19.95},
  {id: "T-410", title: "Diamond kite", category: "toys", price: 11.5},
  {id: "F-100", title: "Refrigerator, 320 l", category: "appliances", price: 499},
];
const SLOTS = [{slot: "home-hero"}, {slot: "home-grid", count: 4}];

const byId = (id) => document.getElementById(id);
let session;
let orders = JSON.parse(localStorage.getItem("orders") || "{}"); // product id → id of the order that is kept
let shown = []; // feedback on the offers of the last answer, sent with the next call

// Signing in, out, and taking it back: the shop's server answers who this is now. At sign-in one event names both, and links them.
async function become(path, said) {
  session = await (await fetch(path, {method: "POST"})).json();
  if (path === "sign-out") {
    orders = {};
    keep();
  }
  showAccount();
  const login = {type: "identify", messageId: crypto.randomUUID(), timestamp: new Date().toISOString()};
  await act(path === "sign-in" ? [login] : [], said);
}

function showAccount() {
  const actions = session.customer
    ? [button("Sign out", "sign-out", () => become("sign-out", "signed out: somebody new")), button("That was not me", "forget", () => become("forget", "taken apart again"))]
    : [button("Sign in as Dora", "sign-in", () => become("sign-in", "signed in"))];
  byId("account").replaceChildren(...actions);
}

// An element with text only: nothing that comes from outside is ever read as markup.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, className, action) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

const event = (name, properties) => ({type: "track", event: name, messageId: crypto.randomUUID(), timestamp: new Date().toISOString(), properties});

// One round trip: what happened goes in, what to show comes out.
async function decide(events) {
  const response = await fetch(session.edge + "/v1/decide", {
    method: "POST",
    headers: {"authorization": "Bearer " + session.publishableKey, "content-type": "application/json",
      ...(session.identityToken ? {"selvedge-identity": session.identityToken} : {})},
    // A shop would rather show its fallback than wait; this page has nothing to show but the answer.
    body: JSON.stringify({visitor: {anonymousId: session.anonymousId}, slots: SLOTS, events: [...shown, ...events], context: {page: {path: location.pathname}}, explain: true, deadlineMs: 5000}),
  });
  const decision = await response.json();
  if (!response.ok) throw new Error(decision.detail);
  shown = decision.slots.flatMap((slot) => slot.offers).filter((offer) => offer.id)
    .map((offer) => event("Offer Shown", {offer_id: offer.id, decision_id: decision.decisionId, channel: "web"}));
  return decision;
}

async function act(events, said) {
  show(await decide(events));
  const line = element("li", "", said);
  byId("done").prepend(line);
  await refreshPanel();
  document.body.dataset.step = String(Number(document.body.dataset.step || 0) + 1);
}

const line = (product) => ({product_id: product.id, name: product.title, price: product.price, quantity: 1, category: product.category});

function view(product) {
  return act([event("Product Viewed", line(product))], "looked at " + product.title);
}

function add(product) {
  return act([event("Product Added", line(product))], "put into the cart: " + product.title);
}

function buy(product) {
  const order = crypto.randomUUID();
  orders[product.id] = order;
  keep();
  return act([event("Order Completed", {order_id: order, currency: "GBP", total: product.price, products: [line(product)]})], "bought " + product.title);
}

function sendBack(product) {
  const order = orders[product.id];
  delete orders[product.id];
  keep();
  return act([event("Order Refunded", {order_id: order, currency: "GBP", total: product.price, products: [line(product)]})], "sent back " + product.title);
}

function keep() {
  localStorage.setItem("orders", JSON.stringify(orders));
  showShelf();
}

const answers = (name, said) => (offer) => act([event(name, {offer_id: offer.id, channel: "web"})], said + offer.content.title);
const follow = answers("Offer Clicked", "followed the offer ");
const take = answers("Offer Accepted", "took up the offer ");
const putAway = answers("Offer Dismissed", "put away the offer ");

function show(decision) {
  const [hero, grid] = decision.slots;
  byId("hero").replaceChildren(...hero.offers.map((offer) => offerCard(offer, "hero")));
  byId("grid").replaceChildren(...grid.offers.map((offer) => offerCard(offer, "card")));
  const chosen = [...hero.offers, ...grid.offers];
  byId("why").replaceChildren(...chosen.map((offer) => element("li", "", offer.content.title + ": " + offer.reasons.join(", ") + (offer.priority === undefined ? "" : " (" + offer.priority.toFixed(2) + ")"))));
  byId("why-not").replaceChildren(...(hero.candidates || []).filter((candidate) => candidate.step && !["answer", "ranking"].includes(candidate.step))
    .map((candidate) => element("li", "", candidate.id.replaceAll("-", " ") + ": " + candidate.outcome.replaceAll("-", " ") + (candidate.until ? " until " + new Date(candidate.until).toLocaleString() : ""))));
  byId("timing").textContent = "Decided in " + decision.meta.elapsedUs + " µs, in a fresh sandbox.";
}

// A picture that needs no pictures: an initial on the colour of its category.
function swatch(title, category) {
  const made = element("div", "picture", title[0]);
  made.dataset.category = category || "";
  made.setAttribute("aria-hidden", "true");
  return made;
}

function offerCard(offer, kind) {
  const card = element(kind === "hero" ? "div" : "article", kind === "hero" ? "" : "card");
  card.dataset.offer = offer.id || "";
  const picture = swatch(offer.content.title, offer.category);
  const text = element("div");
  text.append(element("h2", "", offer.content.title), element("p", "", offer.content.text), element("span", "tag", offer.reasons.join(", ")));
  if (kind === "hero") {
    byId("hero").dataset.offer = offer.id || "";
    const buttons = element("div", "buttons");
    buttons.append(button("Tell me more", "", () => follow(offer)), button("I take it", "", () => take(offer)), button("Not for me", "", () => putAway(offer)));
    if (offer.id) text.append(buttons);
    card.style.display = "contents";
    card.append(picture, text);
  } else {
    card.append(picture, element("strong", "", offer.content.title), element("p", "", offer.content.text), element("span", "tag", offer.reasons.join(", ")));
  }
  return card;
}

function showShelf() {
  byId("shelf").replaceChildren(...PRODUCTS.map((product) => {
    const card = element("article", "card");
    card.dataset.product = product.id;
    const buttons = element("div", "buttons");
    buttons.append(button("Look", "look", () => view(product)), button("Add", "add", () => add(product)));
    buttons.append(orders[product.id] ? button("Send back", "back", () => sendBack(product)) : button("Buy", "buy", () => buy(product)));
    card.append(swatch(product.title, product.category), element("strong", "", product.title), element("span", "price", "£" + product.price.toFixed(2)), buttons);
    return card;
  }));
}

// The panel: the shop's own server reads the profile, with a key that never comes here.
async function refreshPanel() {
  const who = byId("who").value;
  const answer = await (await fetch("visitor" + (who ? "?simulated=" + encodeURIComponent(who) : ""))).json();
  const aggregates = answer.profile ? answer.profile.aggregates : {};
  const wanted = ["orders", "revenue", "revenue_7d", "average_order_value", "distinct_products", "days_since_last_purchase"];
  const rows = wanted.filter((name) => aggregates["retail." + name] && aggregates["retail." + name].value !== null)
    .map((name) => [name.replaceAll("_", " "), String(aggregates["retail." + name].value)]);
  const affinity = aggregates["retail.category_affinity"] ? aggregates["retail.category_affinity"].value : [];
  rows.push(...affinity.slice(0, 3).map((entry) => ["affinity to " + entry.key, entry.weight.toFixed(2)]));
  list("aggregates", rows);
  const scores = answer.profile ? Object.entries(answer.profile.scores) : [];
  list("scores", scores.filter(([, score]) => score.value !== null).map(([name, score]) => [name.replace("retail.", "").replaceAll("_", " "), score.value.toFixed(3)]));
  const identifiers = answer.profile && answer.profile.identifiers ? answer.profile.identifiers : [];
  byId("identifiers").replaceChildren(...identifiers.map((identifier) => element("li", "", identifier)));
  if (answer.decision) show(answer.decision);
}

function list(id, rows) {
  const nothing = [element("dt", "hint", "nothing yet"), element("dd")];
  byId(id).replaceChildren(...(rows.length ? rows.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]) : nothing));
}

async function start() {
  session = await (await fetch("session")).json();
  for (const persona of session.simulated) {
    const option = element("option", "", persona.about);
    option.value = persona.id;
    byId("who").append(option);
  }
  byId("who").addEventListener("change", async () => {
    const other = byId("who").value !== "";
    for (const place of ["hero", "shelf", "account"]) byId(place).inert = other;
    if (!other) show(await decide([]));
    await refreshPanel();
    document.body.dataset.step = String(Number(document.body.dataset.step || 0) + 1);
  });
  showShelf();
  showAccount();
  show(await decide([]));
  await refreshPanel();
  document.body.dataset.step = "1";
}

start().catch((error) => byId("hero").replaceChildren(element("p", "", "The edge could not be asked: " + error.message)));
