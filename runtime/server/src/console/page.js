"use strict";
// Everything that is shown is made of text nodes: nothing that an offer, a visitor or an answer says becomes markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const STEPS = ["availability", "consent", "quiet", "hold-out", "suppression", "cap", "eligibility", "ranking", "answer"];
// What outcomes mean, at which step they stand, and what one may do about them.
const OUTCOMES = {
  "chosen": ["answer", "Chosen", "It was answered."],
  "fallback": ["answer", "Shown as the fallback", "Nothing else could stand in the slot."],
  "disabled": ["availability", "Switched off", "Disabled in the catalogue, or stopped by its kill switch."],
  "stopped": ["availability", "Stopped", "Its kill switch is thrown."],
  "not-yet-valid": ["availability", "Not valid yet", "Its validity begins later."],
  "no-longer-valid": ["availability", "Not valid any more", "Its validity is over."],
  "campaign-not-yet-valid": ["availability", "Campaign not started", "Its campaign begins later."],
  "campaign-over": ["availability", "Campaign over", "Its campaign has ended."],
  "no-content-for-channel": ["availability", "Nothing to show on the channel", "It has no content for the channel that was asked for."],
  "out-of-stock": ["availability", "Out of stock", "Its inventory is used up."],
  "consent-missing": ["consent", "Consent missing", "The person does not allow the purpose that it needs."],
  "channel-opted-out": ["consent", "Channel opted out", "The person has closed this channel."],
  "quiet-period": ["quiet", "Quiet period", "The channel was quiet at that hour."],
  "held-out": ["hold-out", "Held out", "The person is in the global hold-out."],
  "campaign-held-out": ["hold-out", "Held out of its campaign", "The person is in the hold-out of its campaign."],
  "suppressed-bought": ["suppression", "Bought already", "What it sells was bought and is kept."],
  "suppressed-accepted": ["suppression", "Accepted already", "The person has accepted it."],
  "suppressed-already-bought": ["suppression", "Had already", "The person said that they have it."],
  "suppressed-dismissed": ["suppression", "Dismissed", "The person has put it away."],
  "capped": ["cap", "Capped", "It, its category, campaign or channel was offered as often as its caps allow."],
  "not-in-audience": ["eligibility", "Not in the audience", "The person is not in an audience that it is for."],
  "not-eligible": ["eligibility", "Not eligible", "Its own condition was not met."],
  "campaign-not-eligible": ["eligibility", "Campaign not eligible", "The condition of its campaign was not met."],
  "slot-not-eligible": ["eligibility", "Slot closed", "The condition of the slot was not met."],
  "left-out": ["ranking", "Left out by the plugin", "The ranking plugin found it unfit."],
  "not-ranked": ["ranking", "Not ranked", "The ranking failed, or came too late."],
  "too-many-of-its-category": ["answer", "Too many of its category", "The slot held as many of its category as it may."],
  "in-another-slot": ["answer", "In another slot", "It stood in another slot of the same answer."],
  "outranked": ["answer", "Outranked", "It was eligible, and others came before it."],
};
const FUNNEL = [["decided", "Decided"], ["shown", "Shown"], ["clicked", "Clicked"], ["accepted", "Accepted"]];
const state = { key: null, offers: new Map(), campaigns: new Map(), audiences: [], turn: 0 };

function h(name, props, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const count = (number) => Number(number ?? 0).toLocaleString();
const percent = (part, digits = 1) => `${(100 * part).toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits })} %`;
const signed = (part) => `${part > 0 ? "+" : part < 0 ? "−" : ""}${percent(Math.abs(part))}`;
const when = (text) => {
  const at = new Date(text);
  return h("time", { datetime: text, title: text }, Number.isNaN(at.getTime()) ? text : at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }));
};
const width = (part) => { const bar = h("i", { hidden: !(part > 0) }); bar.style.width = `${Math.max(0, Math.min(1, part || 0)) * 100}%`; return bar; };
const meter = (part, kind = "") => h("span", { class: `meter ${kind}`, "aria-hidden": "true" }, width(part));
const nameOf = (id) => state.offers.get(id) ?? id;
const offerLink = (id) => h("a", { href: `#/offer/${encodeURIComponent(id)}` }, nameOf(id));
const number = (value) => (typeof value === "number" ? value.toLocaleString(undefined, { maximumFractionDigits: 4 }) : "–");

class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `the listener answered ${status}`);
    this.status = status;
    this.code = problem?.code;
  }
}

/** Asks the listener. Whoever is refused for the key is asked for it. */
async function ask(path) {
  const headers = { accept: "application/json" };
  if (state.key) headers.authorization = `Bearer ${state.key}`;
  const answer = await fetch(path, { headers, cache: "no-store", credentials: "omit" });
  const text = await answer.text();
  let body = null;
  try { body = JSON.parse(text); } catch { /* said below */ }
  if (!answer.ok || body === null) throw new Refused(answer.status, body);
  return body;
}

const isForKey = (error) => error instanceof Refused && (error.status === 401 || (error.code ?? "").startsWith("key_"));

function wantsKey(refused) {
  $("access").hidden = false;
  $("refused").textContent = state.key === null ? "" : refused.message;
  state.key = null;
  $("view").replaceChildren();
  $("key").focus();
}

const empty = (title, ...text) => h("div", { class: "card empty" }, h("b", null, title), ...text);
const fault = (error) => h("p", { class: "card fault", role: "alert" }, error.message);
const head = (title, ...lead) => [h("h1", null, title), h("p", { class: "lead" }, ...lead)];

/** Offers' names, where the catalogue can be read. */
async function learn() {
  const [catalogue, status] = await Promise.allSettled([ask("v1/catalogue"), ask("v1/status")]);
  if (catalogue.status === "fulfilled") {
    for (const offer of catalogue.value.offers ?? []) state.offers.set(offer.id, offer.name || offer.id);
    for (const campaign of catalogue.value.campaigns ?? []) state.campaigns.set(campaign.id, campaign.name || campaign.id);
    const uses = (name) => (catalogue.value.offers ?? []).filter((offer) => offer.audiences?.includes(name)).map((offer) => offer.id);
    state.audiences = (catalogue.value.audiences ?? []).map((of) => ({ ...of, offers: uses(of.name) }));
  }
  if (status.status === "fulfilled") {
    const { role, version, state: live } = status.value;
    $("status").textContent = [role === "run" ? "edge and centre" : role, live, version && `version ${version}`].filter(Boolean).join(" · ");
  }
  const refused = [catalogue, status].find((of) => isForKey(of.reason));
  if (refused) throw refused.reason;
}

const offerList = () => h("datalist", { id: "offers" }, [...state.offers].map(([id, name]) => h("option", { value: id }, name)));

// Funnels.

let report = null;
async function funnels(view, turn) {
  view.append(...head("What became of the offers", "From decided to accepted, over everyone. A share is of the step before it."));
  try {
    report = await ask("v1/report?experiments=false&days=32");
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return view.append(empty("No data", "This listener gives no report. Ask the admin listener of an edge or of the centre."));
    throw error;
  }
  if (turn !== state.turn) return;
  const channels = (report.channels ?? []).map((of) => of.channel);
  const choice = (id, label, options) => h("label", { for: id }, label, h("select", { id, onchange: draw }, options.map(([value, text]) => h("option", { value }, text))));
  const table = h("div");
  view.append(
    h("div", { class: "card" },
      h("form", { class: "ask", onsubmit: (event) => event.preventDefault() },
        choice("period", "Period", [["", "All time"], ["1", "Today"], ["7", "Last 7 days"], ["30", "Last 30 days"]]),
        choice("channel", "Channel", [["", "All channels"], ...channels.map((of) => [of, of])])),
      table,
      h("p", { class: "note" }, "As of ", when(report.at), report.timeZone ? `, days by ${report.timeZone}` : "",
        report.shards < report.of ? `. This listener holds ${report.shards} of ${report.of} shards; ask the centre for all of them.` : ".")));
  function draw() {
    const rows = counted(report, Number($("period").value), $("channel").value);
    table.replaceChildren(rows.length === 0 ? empty("Nothing was offered", "No decision, nothing shown, in this period and on this channel.") : funnelTable(rows));
  }
  draw();
}

/** Counts by offer within a period and a channel, the most decided first. */
function counted(report, days, channel) {
  const zero = () => ({ decided: 0, shown: 0, clicked: 0, accepted: 0 });
  const rows = new Map((report.offers ?? []).map((offer) => [offer.id, { ...offer, counts: zero() }]));
  const add = (id, counts) => {
    const row = rows.get(id) ?? { id, known: false, counts: zero() };
    rows.set(id, row);
    for (const [act] of FUNNEL) row.counts[act] += counts?.[act] ?? 0;
  };
  if (days) {
    const all = [...new Set((report.days ?? []).map((of) => of.day))].sort();
    const today = (report.at && report.timeZone) ? new Date(report.at).toLocaleDateString("sv-SE", { timeZone: report.timeZone }) : all.at(-1) ?? "";
    const from = new Date(`${today}T00:00:00Z`);
    if (!Number.isNaN(from.getTime())) from.setUTCDate(from.getUTCDate() - days + 1);
    const first = Number.isNaN(from.getTime()) ? "" : from.toISOString().slice(0, 10);
    for (const of of report.days ?? []) if (of.day >= first && (!channel || of.channel === channel)) add(of.offer, of);
  } else {
    for (const offer of report.offers ?? []) {
      const of = channel ? (offer.channels ?? []).find((each) => each.channel === channel)?.total : offer.total;
      add(offer.id, of);
    }
  }
  const happened = [...rows.values()].filter((row) => FUNNEL.some(([act]) => row.counts[act] > 0));
  return happened.sort((a, b) => b.counts.decided - a.counts.decided || b.counts.shown - a.counts.shown);
}

function funnelTable(rows) {
  const most = Math.max(...rows.flatMap((row) => FUNNEL.map(([act]) => row.counts[act])), 1);
  const steps = (counts) => FUNNEL.map(([act, label], at) => {
    const before = at === 0 ? null : counts[FUNNEL[at - 1][0]];
    return h("div", null, meter(counts[act] / most), h("b", null, count(counts[act])),
      h("small", null, at === 0 ? label.toLowerCase() : `${label.toLowerCase()}${before ? `, ${percent(counts[act] / before)}` : ""}`));
  });
  const total = Object.fromEntries(FUNNEL.map(([act]) => [act, rows.reduce((sum, row) => sum + row.counts[act], 0)]));
  const figures = h("dl", { class: "figures large" }, FUNNEL.map(([act, label]) => figure(label, count(total[act]))));
  return h("div", null, figures, h("div", { class: "scroll" }, h("table", null,
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "Offer"), h("th", { scope: "col" }, "Decided → shown → clicked → accepted"), h("th", { scope: "col", class: "number" }, "Accepted of shown"))),
    h("tbody", null, rows.map((row) => h("tr", null,
      h("th", { scope: "row" }, offerLink(row.id), h("small", null, row.id, row.campaign ? ` · ${row.campaign}` : "", row.known === false ? " · not in the catalogue any more" : "")),
      h("td", null, h("div", { class: "funnel" }, steps(row.counts))),
      h("td", { class: "number" }, row.counts.shown ? percent(row.counts.accepted / row.counts.shown) : "–")))))));
}

// Why an offer was not shown.

async function offer(view, turn, id, hours = "24") {
  view.append(...head("Why was my offer not shown?", "What became of it in the decisions that this edge keeps, step by step."));
  const field = h("input", { id: "offer", list: "offers", value: id ?? "", required: true, autocomplete: "off", spellcheck: "false", placeholder: "kettle" });
  const since = h("select", { id: "since" }, [["1", "last hour"], ["24", "last 24 hours"], ["", "all that are kept"]].map(([value, text]) => h("option", { value, selected: value === hours }, text)));
  view.append(h("form", { class: "card ask", onsubmit: (event) => { event.preventDefault(); go(`#/offer/${encodeURIComponent(field.value.trim())}${since.value === "24" ? "" : `/${since.value || "all"}`}`); } },
    h("label", { class: "wide", for: "offer" }, "Offer", field), h("label", { for: "since" }, "Since", since), h("button", { type: "submit" }, "Ask"), offerList()));
  if (!id) return field.focus();
  const query = new URLSearchParams({ offer: id });
  if (hours) query.set("since", new Date(Date.now() - Number(hours) * 3600e3).toISOString());
  const told = await ask(`v1/decisions?${query}`);
  if (turn !== state.turn) return;
  const outcomes = Object.entries(told.outcomes ?? {});
  const shown = (told.outcomes?.chosen ?? 0) + (told.outcomes?.fallback ?? 0);
  const looked = told.decisions - (told.noCandidate ?? 0) - (told.unexplained ?? 0);
  if (!told.decisions) return view.append(empty("No decision is kept", "An edge keeps outbound decisions, explained ones, and one of a hundred others. Start it with --decision-records all to keep every one."));
  view.append(h("section", { class: "card" },
    h("h2", null, nameOf(id)),
    h("dl", { class: "figures large" },
      figure("Decisions kept", count(told.decisions)), figure("It was chosen in", count(shown)),
      figure("Share of those explained", looked ? percent(shown / looked) : "–")),
    told.unexplained ? h("p", { class: "note" }, `In ${count(told.unexplained)} more it was not chosen and nobody asked why: "explain": true in a call does.`) : null,
    told.noCandidate ? h("p", { class: "note" }, `In ${count(told.noCandidate)} it could not stand: they were for other slots.`) : null));
  if (outcomes.length === 0) return view.append(empty("Nothing to explain", "None of these decisions says why it was not chosen."));
  const all = outcomes.reduce((sum, [, of]) => sum + of, 0);
  const step = (name) => outcomes.filter(([code]) => (OUTCOMES[code]?.[0] ?? "other") === name && !isShown(code)).sort((a, b) => b[1] - a[1]);
  const row = ([code, of]) => h("div", { class: "reason" },
    h("b", null, OUTCOMES[code]?.[1] ?? code.replaceAll("-", " ")), meter(of / all, isShown(code) ? "good" : ""),
    h("span", { class: "number" }, count(of), " ", h("span", { class: "soft" }, percent(of / all))),
    h("p", null, OUTCOMES[code]?.[2] ?? "", samples(told.samples?.[code])));
  const isIn = [...STEPS, "other"].map((name) => [name, step(name)]).filter(([, of]) => of.length > 0);
  const chosen = outcomes.filter(([code]) => isShown(code));
  view.append(h("section", { class: "card" }, h("h2", null, "Where it left"),
    h("ol", { class: "steps" }, isIn.map(([name, of]) => h("li", null, h("h3", null, name), h("div", null, of.map(row)))),
      chosen.length ? h("li", null, h("h3", null, "shown"), h("div", null, chosen.map(row))) : null)));
}
const isShown = (code) => code === "chosen" || code === "fallback";
const figure = (label, value) => h("div", null, h("dt", null, label), h("dd", null, value));
const samples = (ids) => (ids?.length ? [" Latest: ", ids.flatMap((id, at) => [at ? ", " : "", h("a", { href: `#/decision/${encodeURIComponent(id)}`, class: "mono whole", title: id }, `…${id.slice(-8)}`)]), "."] : null);

// One decision.

async function decision(view, turn, id) {
  view.append(...head("A decision, explained", "By the id that its answer carries as decisionId."));
  const field = h("input", { id: "id", value: id ?? "", required: true, autocomplete: "off", spellcheck: "false", pattern: "[0-9A-Za-z]+", title: "letters and digits" });
  view.append(h("form", { class: "card ask", onsubmit: (event) => { event.preventDefault(); go(`#/decision/${encodeURIComponent(field.value.trim())}`); } },
    h("label", { class: "wide", for: "id" }, "Decision id", field), h("button", { type: "submit" }, "Explain")));
  if (!id) return field.focus();
  const record = await ask(`v1/decisions/${encodeURIComponent(id)}`);
  if (turn !== state.turn) return;
  view.append(h("section", { class: "card" },
    h("dl", { class: "figures" },
      figure("For", record.visitor), figure("At", when(record.at)), figure("Channel", record.channel),
      record.validUntil ? figure("May be sent until", when(record.validUntil)) : null,
      record.catalogue ? figure("Catalogue", `version ${record.catalogue.version}`) : null),
    h("details", null, h("summary", null, "Identifiers, plugins and context"), pairs([
      ["identifiers", (record.identifiers ?? []).join(", ")],
      ...(record.catalogue ? [["catalogue", record.catalogue.hash]] : []),
      ...Object.entries(record.plugins ?? {}).map(([name, hash]) => [`plugin ${name}`, hash]),
      ...(record.context ? [["context", record.context]] : []),
    ]))));
  const stages = record.stages ?? [];
  for (const slot of record.slots ?? []) view.append(slotCard(slot, stages, record.explained));
  if (!record.explained) view.append(h("p", { class: "card" }, "Nobody asked why the others were not chosen: ", h("code", null, "\"explain\": true"), " in the call does."));
  if (stages.length) {
    view.append(h("section", { class: "card" }, h("h2", null, "What plugins were given"),
      h("p", { class: "lead" }, "Exactly what they declared to read. Nothing else enters their memory."), stages.map(stageRow)));
  }
}

function slotCard(slot, stages, explained) {
  const rank = new Map((slot.offers ?? []).map((of) => [of.id, of]));
  const chosen = h("ul", { class: "chosen" }, (slot.offers ?? []).map((of) => h("li", { class: slot.fallback ? "fallback" : "" },
    h("b", null, of.id ? offerLink(of.id) : "content of the slot"), h("small", null, slot.fallback ? "fallback" : `place ${of.rank}`,
      of.variant ? ` · variant ${of.variant}` : "", typeof of.priority === "number" ? ` · priority ${number(of.priority)}` : "", of.reason && !slot.fallback ? ` · ${of.reason}` : ""))));
  const candidates = slot.candidates ?? [];
  return h("section", { class: "card" }, h("h2", null, `Slot ${slot.slot}`), (slot.offers ?? []).length ? chosen : h("p", { class: "note" }, "Nothing was answered."),
    explained && candidates.length ? h("div", { class: "scroll" }, h("table", null,
      h("caption", null, `${candidates.length} candidates`),
      h("thead", null, h("tr", null, ["Offer", "Outcome", "Step", "Priority", "Why"].map((label) => h("th", { scope: "col", class: label === "Priority" ? "number" : null }, label)))),
      h("tbody", null, candidates.map((of) => candidateRow(of, rank.get(of.id), stages))))) : null);
}

function candidateRow(candidate, place, stages) {
  const [step, title, meaning] = OUTCOMES[candidate.outcome] ?? [candidate.step, candidate.outcome, ""];
  const { factors } = candidate;
  const given = stages.filter((stage) => stage.offers?.[candidate.id]);
  const inputs = Object.entries(candidate.inputs ?? {});
  const all = inputs.length + given.length;
  return h("tr", null,
    h("th", { scope: "row" }, offerLink(candidate.id), nameOf(candidate.id) === candidate.id ? null : h("small", null, candidate.id)),
    h("td", null, h("span", { class: `tag ${candidate.outcome === "chosen" ? "good" : step === "answer" ? "" : "warn"}` }, place && candidate.outcome === "chosen" ? `Chosen, place ${place.rank}` : title)),
    h("td", null, candidate.outcome === "chosen" ? "–" : candidate.step ?? step ?? "–"),
    h("td", { class: "number" }, number(candidate.priority)),
    h("td", { class: "why" }, meaning && candidate.outcome !== "chosen" ? meaning : null,
      candidate.until ? h("small", null, "until ", when(candidate.until)) : null,
      candidate.reason ? h("small", null, `the plugin says ${candidate.reason}`) : null,
      factors ? h("p", { class: "product" }, Object.entries(factors).filter(([, value]) => typeof value === "number")
        .flatMap(([name, value], at) => [at ? "×" : "", h("span", null, name, " ", h("b", null, number(value)))])) : null,
      factors?.response ? h("small", null, `propensity by the response rate: ${count(factors.response.responses)} of ${count(factors.response.shown)} shown, `,
        `with a prior of ${number(factors.response.prior)} that weighs as ${number(factors.response.weight)}`) : null,
      all ? h("details", null, h("summary", null, "What was read"), inputs.length ? pairs(inputs) : null,
        given.map((stage) => [h("h3", null, `${stage.plugin}, ${stage.stage}`), pairs(Object.entries(stage.offers[candidate.id]))])) : null));
}

const stageRow = (stage) => h("details", { open: stage.failed ? true : null },
  h("summary", null, `${stage.plugin} ${stage.version ?? ""}, ${stage.stage}: ${count(stage.fuel)} fuel`, stage.failed ? ` – gave no answer (${stage.failed})` : ""),
  Object.keys(stage.inputs ?? {}).length ? [h("h3", null, "Given of the visitor"), pairs(Object.entries(stage.inputs))] : h("p", { class: "note" }, "It reads nothing of the visitor."),
  stage.offers ? h("p", { class: "note" }, `What it was given of its ${Object.keys(stage.offers).length} candidates stands at each of them.`) : null,
  stage.scores ? [h("h3", null, "Scored"), pairs(Object.entries(stage.scores))] : null,
  h("p", { class: "note mono" }, stage.hash));

const pairs = (entries) => h("dl", { class: "pairs" }, entries.flatMap(([name, value]) => [
  h("dt", { class: "mono" }, name),
  h("dd", value === null ? { class: "null" } : { class: "mono" }, value === null ? "not known" : typeof value === "string" ? value : JSON.stringify(value))]));

// Experiments.

async function experiments(view, turn) {
  view.append(...head("What the experiments say", "Each arm against its baseline, with the 95 % interval. Where the interval has zero in it, chance alone may explain the difference."));
  const wait = h("p", { class: "note", role: "status" }, "Looking at every profile…");
  view.append(wait);
  let told;
  try {
    told = await ask("v1/report?days=0");
  } catch (error) {
    wait.remove();
    if (error instanceof Refused && error.status === 404) return view.append(empty("No data", "This listener gives no report. Ask the admin listener of an edge or of the centre."));
    throw error;
  }
  wait.remove();
  if (turn !== state.turn) return;
  const list = told.experiments ?? [];
  if (list.length === 0) return view.append(empty("No experiment", "The catalogue has no hold-out, no control and no variants, or nobody was exposed to one."));
  const kinds = ["holdout", "control", "campaign", "variants"];
  list.sort((a, b) => kinds.indexOf(a.kind) - kinds.indexOf(b.kind));
  const title = { holdout: "Global hold-out", control: "Random control", campaign: "Hold-out of campaign", variants: "Variants of" };
  for (const of of list) {
    const reach = Math.max(0.05, ...of.arms.flatMap((arm) => (arm.lift ? [Math.abs(arm.lift.low), Math.abs(arm.lift.high)] : [])));
    view.append(h("section", { class: "card" },
      h("h2", null, `${title[of.kind] ?? of.kind} ${of.of ? (of.kind === "campaign" ? state.campaigns.get(of.of) ?? of.of : nameOf(of.of)) : ""}`),
      h("div", { class: "scroll" }, h("table", null,
        h("thead", null, h("tr", null, ["Arm", "Exposed", "Converted", "Conversion", "Lift", "95 % interval"].map((label, at) => h("th", { scope: "col", class: at > 0 && at < 5 ? "number" : null }, label)))),
        h("tbody", null, of.arms.map((arm) => armRow(arm, of.baseline, Math.min(reach, 5))))))));
  }
  view.append(h("p", { class: "note" }, `${count(told.persons)} persons with an exposure, as of `, when(told.at), told.shards < told.of ? `. This listener holds ${told.shards} of ${told.of} shards.` : "."));
}

function armRow(arm, baseline, reach) {
  const isBase = arm.arm === baseline;
  return h("tr", null,
    h("th", { scope: "row" }, arm.arm, isBase ? h("small", null, "the baseline") : null),
    h("td", { class: "number" }, count(arm.exposed)), h("td", { class: "number" }, count(arm.converted)),
    h("td", { class: "number" }, arm.share ? [percent(arm.share.value, 2), h("small", null, `${percent(arm.share.low, 2)} to ${percent(arm.share.high, 2)}`)] : "–"),
    h("td", { class: "number" }, isBase ? "–" : arm.lift ? h("b", null, signed(arm.lift.value)) : "–"),
    h("td", null, isBase ? "" : arm.lift ? [interval(arm, reach), h("small", null, `${signed(arm.lift.low)} to ${signed(arm.lift.high)}: `, verdict(arm))] : h("small", null, "too few conversions to say")));
}
// The interval of a lift is too narrow where few were exposed; that of the difference, which is right there too, must say the same.
const isBetter = ({ lift, difference }) => lift.low > 0 && (difference?.low ?? 0) > 0;
const isWorse = ({ lift, difference }) => lift.high < 0 && (difference?.high ?? 0) < 0;
const verdict = (arm) => {
  if (isBetter(arm)) return "better than the baseline";
  if (isWorse(arm)) return "worse than the baseline";
  return arm.lift.low > 0 || arm.lift.high < 0 ? "too few to say" : "may be chance";
};

function interval(arm, reach) {
  const { value, low, high } = arm.lift;
  const x = (of) => 100 + 94 * Math.max(-1, Math.min(1, of / reach));
  const part = (name, props) => { const node = document.createElementNS(SVG, name); for (const [key, of] of Object.entries(props)) node.setAttribute(key, of); return node; };
  const svg = part("svg", { class: "interval", viewBox: "0 0 200 34", role: "img", "aria-label": `lift ${signed(value)}, between ${signed(low)} and ${signed(high)}` });
  svg.append(part("line", { class: "zero", x1: 100, x2: 100, y1: 3, y2: 31 }),
    part("line", { class: `span ${isBetter(arm) ? "sure" : isWorse(arm) ? "loss" : ""}`, x1: x(low), x2: x(high), y1: 17, y2: 17 }),
    part("circle", { class: "point", cx: x(value), cy: 17, r: 5 }));
  return svg;
}

// Audiences.

async function audiences(view) {
  view.append(...head("Who is in which audience", "An audience is a rule, not a list: it is worked out when somebody asks. A sample of 5,000 identifiers is quick; all of them takes some seconds for a hundred thousand."));
  if (state.audiences.length === 0) return view.append(empty("No audience", "The catalogue has none, or this listener does not know it."));
  view.append(h("div", { class: "card" }, h("div", { class: "scroll" }, h("table", null,
    h("thead", null, h("tr", null, ["Audience", "Who is in it", "Persons now"].map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", null, state.audiences.map(audienceRow))))));
}

function audienceRow({ name, condition, offers }) {
  const told = h("div", { role: "status" });
  const counts = async (query) => {
    told.replaceChildren(h("small", null, "Counting…"));
    try {
      const of = await ask(`v1/audiences/${encodeURIComponent(name)}/count${query}`);
      told.replaceChildren(h("b", null, of.exact ? count(of.count) : `about ${count(of.count)}`), ` of ${count(of.persons)}`,
        of.share ? ` (${percent(of.share.value)})` : "", meter(of.share?.value ?? 0),
        of.exact ? "" : h("small", null, `between ${count(of.low)} and ${count(of.high)} with 95 % certainty`));
    } catch (error) {
      told.replaceChildren(h("span", { class: "fault" }, error.message));
    }
  };
  const button = (label, query) => h("button", { type: "button", class: "small", onclick: () => counts(query) }, label);
  return h("tr", null,
    h("th", { scope: "row" }, name, offers.length ? h("small", null, "for ", offers.flatMap((id, at) => [at ? ", " : "", offerLink(id)])) : null),
    h("td", null, h("code", null, condition)),
    h("td", null, h("div", { class: "ask" }, button("Sample", "?sample=5000"), button("All", "")), told));
}

// What is shown follows the address, so that any of it can be linked to.

const VIEWS = { funnels, offer, decision, experiments, audiences };
function go(hash) {
  if (location.hash === hash) show(); else location.hash = hash;
}
async function show() {
  const [, name = "", ...rest] = location.hash.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  const chosen = Object.hasOwn(VIEWS, name) ? name : "funnels";
  const turn = ++state.turn;
  const view = $("view");
  document.body.dataset.ready = "";
  view.replaceChildren();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === chosen) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector("nav a[aria-current]").textContent} · Selvedge`;
  const asked = chosen === "offer" && rest[1] ? [rest[0], rest[1] === "all" ? "" : rest[1]] : rest.slice(0, 1);
  try {
    if (state.offers.size === 0) await learn();
    if (turn === state.turn) $("access").hidden = true;
    if (turn === state.turn) await VIEWS[chosen](view, turn, ...asked);
  } catch (error) {
    if (turn !== state.turn) return;
    if (isForKey(error)) wantsKey(error);
    else view.append(fault(error));
  }
  if (turn === state.turn) document.body.dataset.ready = chosen;
}
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value;
  $("key").value = "";
  show();
});
addEventListener("hashchange", () => { $("main").focus({ preventScroll: true }); scrollTo(0, 0); show(); });
show();
