// The sandbox's page. Arriving data is not trusted, so it goes into the page only as text.

const WINDOW = 100; // rows in the page; "Show older" adds as many
const ROWS_A_FRAME = 25; // made at once: more would delay a key press
const SHOWN = 160; // characters of a value in a row
const ANNOUNCE_MS = 1500;
const IDS = {
  invoice_id: "invoice",
  charge_id: "charge",
  subscription_id: "subscription",
  transaction_id: "transaction",
  network_transaction_id: "network",
  customer_id: "customer",
};
const FIELDS = [...Object.keys(IDS), "customer_email", "ipv4_address", "psp", "user_agent"];
const HINTS = {
  contract: "As Butter does: 200 to a valid record, 422 to any other.",
  401: "The credentials are not taken. The middleware holds, probes every few seconds, and loses nothing.",
  403: "Forbidden. The middleware tries another record: where that fails too, it holds.",
  422: "Invalid. The record is dead, and a person decides; after five in a row the middleware holds.",
  429: "Too many requests, Retry-After 5. The middleware pauses, then sends half as much at once.",
  500: "The server failed. The middleware tries later; after two records in a row it only probes.",
  slow: "Taken at once, answered after {slow} seconds. The checkout does not wait for it.",
  reset: "The connection breaks, without an answer. After five in a row the middleware only probes.",
};

const byId = (id) => document.getElementById(id);
const [rows, table, search, pause, older] = ["rows", "table", "search", "pause", "older"].map(byId);
const choices = { psp: byId("filter-psp"), route: byId("filter-route") };

const inbox = { run: "", entries: [], state: null }; // the oldest entry is first
const view = { terms: [], outcome: "all", psp: "", route: "", linked: 0, limit: WINDOW, pausedAt: null, matched: 0, frame: 0, unseen: 0 };
const announced = { entries: [], timer: 0 };
const asked = { waiting: 0, last: Promise.resolve() };

// Helpers

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function button(text, action) {
  const element = make("button", "", text);
  element.type = "button";
  element.addEventListener("click", () => action(element));
  return element;
}

const short = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);
const number = (count) => count.toLocaleString("en");
const plural = (count) => `${number(count)} ${count === 1 ? "entry" : "entries"}`;
const isSent = (entry) => entry.data.record !== undefined;
const noun = (entry) => (isSent(entry) ? "Record" : "Checkout");
const clock = new Intl.DateTimeFormat("en", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const day = new Intl.DateTimeFormat("en", { dateStyle: "medium" });

function say(text) {
  byId("announcer").textContent = text;
}

function complain(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function statusOf(entry) {
  const { outcome, status } = entry.data;
  if (!isSent(entry)) return { missing: "Not sent", skipped: "Skipped" }[outcome];
  if (outcome === "duplicate") return `Duplicate ${status}`;
  const word = { accepted: "Accepted", rejected: "Rejected", refused: "Refused" }[outcome];
  return status === null ? "Reset" : `${word} ${status}`;
}

// Arrivals

function receive(records) {
  const last = inbox.entries.at(-1)?.data.seq ?? 0;
  for (const data of records) {
    if (data.seq <= last) continue;
    offer(choices.psp, data.record?.psp);
    offer(choices.route, data.route);
    const entry = { data, text: "", hit: false, open: false, nodes: null, fresh: true };
    entry.text = searchable(entry);
    entry.hit = matches(entry);
    view.matched += entry.hit;
    inbox.entries.push(entry);
    announced.entries.push(entry);
    if (document.hidden) view.unseen += 1;
  }
  announced.timer ||= setTimeout(announce, ANNOUNCE_MS);
  schedule();
}

function offer(select, value) {
  // The PSPs and routes so far, for the filters.
  if (!value || value.length > SHOWN || select.options.length > 50) return;
  if ([...select.options].some((option) => option.value === value)) return;
  select.append(new Option(value, value));
  select.hidden = false;
}

function searchable(entry) {
  const { record = {}, problems = [], body = "", route, outcome, reason = "", message = "" } = entry.data;
  const texts = [...Object.values(record), ...problems.map((problem) => problem.message), route, outcome, reason, message];
  return [...texts, statusOf(entry), body].join("\n").toLowerCase();
}

function matches(entry) {
  if (view.outcome !== "all" && entry.data.outcome !== view.outcome) return false;
  if (view.psp && entry.data.record?.psp !== view.psp) return false;
  if (view.route && entry.data.route !== view.route) return false;
  const { seq, duplicate_of: first } = entry.data;
  return view.terms.every((term) => (term[0] === "#" && [`#${seq}`, `#${first}`].includes(term)) || entry.text.includes(term));
}

function takeState(state) {
  if (state.run !== inbox.run) {
    inbox.run = state.run;
    inbox.entries = [];
    view.matched = 0;
    if (view.pausedAt !== null) view.pausedAt = 0;
  }
  inbox.state = state;
  const kept = inbox.entries.findIndex((entry) => entry.data.seq >= state.first);
  for (const entry of inbox.entries.splice(0, kept < 0 ? inbox.entries.length : kept)) view.matched -= entry.hit;
  schedule();
}

function announce() {
  const entries = announced.entries;
  announced.entries = [];
  announced.timer = 0;
  // At the start the whole inbox arrives at once.
  if (entries.length > 1) say(`${plural(entries.length)} arrived.`);
  else if (entries.length) say(`${noun(entries[0])} ${entries[0].data.seq} arrived. ${statusOf(entries[0])}.`);
}

// The list

function schedule() {
  view.frame ||= requestAnimationFrame(() => {
    view.frame = 0;
    render();
  });
}

function shownEntries() {
  // The newest hits, and older ones that are in use: open, or with the focus.
  const focused = document.activeElement?.closest("tr");
  const shown = [];
  let inWindow = 0;
  for (let index = inbox.entries.length - 1; index >= 0; index -= 1) {
    const entry = inbox.entries[index];
    if (!entry.hit || (view.pausedAt !== null && entry.data.seq > view.pausedAt)) continue;
    const isHeld = entry.nodes !== null && (entry.open || entry.nodes.includes(focused));
    if (inWindow < view.limit) inWindow += 1;
    else if (!isHeld) continue;
    shown.push(entry);
  }
  return shown;
}

function render() {
  const shown = shownEntries();
  const made = shown.filter((entry) => entry.nodes === null).slice(0, ROWS_A_FRAME);
  for (const entry of made) entry.nodes = [makeRow(entry, made.length < 8)];
  const wanted = new Set(shown.flatMap((entry) => entry.nodes ?? []));
  if (shown.some((entry) => entry.nodes === null)) schedule();
  // Remaining nodes are not moved, because they would lose the focus.
  for (const node of [...rows.children]) if (!wanted.has(node)) node.remove();
  let next = rows.firstElementChild;
  for (const node of wanted) {
    if (node === next) next = next.nextElementSibling;
    else rows.insertBefore(node, next);
  }
  for (const entry of inbox.entries) {
    if (entry.nodes && !wanted.has(entry.nodes[0])) Object.assign(entry, { nodes: null, open: false });
  }
  renderRest(shown.length);
  openLinked();
}

function openLinked() {
  // The URL may name an entry: /#12. It is opened when it has arrived.
  const entry = view.linked && inbox.entries.find(({ data }) => data.seq === view.linked);
  if (!entry?.nodes) return;
  view.linked = 0;
  if (!entry.open) toggle(entry);
  entry.nodes[0].scrollIntoView({ block: "center" });
  entry.nodes[0].querySelector(".disclose").focus({ preventScroll: true });
}

function followLink() {
  view.linked = Number(/^#([0-9]{1,15})$/.exec(location.hash)?.[1] ?? 0);
  if (view.linked) find(`#${view.linked}`);
}

function renderRest(shown) {
  const { state, entries } = inbox;
  const left = view.matched - shown;
  table.hidden = shown === 0;
  byId("empty").hidden = entries.length > 0 || state === null;
  byId("nothing-found").hidden = entries.length === 0 || view.matched > 0;
  byId("searched").textContent = number(entries.length);
  byId("foot").hidden = left <= 0 || view.pausedAt !== null;
  older.textContent = `Show older, ${number(left)} more`;
  const waiting = view.pausedAt === null ? 0 : entries.filter((entry) => entry.hit && entry.data.seq > view.pausedAt).length;
  pause.textContent = view.pausedAt === null ? "Pause" : `Resume${waiting ? `, ${number(waiting)} new` : ""}`;
  document.title = `${view.unseen ? `(${number(view.unseen)}) ` : ""}Butter sandbox`;
  if (state !== null) renderState(state);
}

function renderState(state) {
  const { dropped, ...outcomes } = state.counts;
  const total = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  byId("count-all").textContent = number(total);
  for (const [outcome, count] of Object.entries(outcomes)) byId(`count-${outcome}`).textContent = number(count);
  byId("dropped").hidden = dropped === 0;
  byId("dropped").textContent =
    `The oldest ${plural(dropped)} ${dropped === 1 ? "is" : "are"} no longer here: the newest ${number(state.keep)} are kept (--keep).`;
  // While a switch is on its way, the page's own state is newer.
  if (asked.waiting === 0) {
    for (const input of document.getElementsByName("answer")) input.checked = input.value === state.answer;
  }
  byId("switches").toggleAttribute("data-switched", state.answer !== "contract");
  const hint = HINTS[state.answer].replace("{slow}", state.slow_seconds);
  setText(byId("answer-hint"), state.answer === "contract" ? hint : `${hint} Until you switch back.`);
  setText(byId("setup"), setupText(state));
  const anyCredentials = "Any credentials are accepted. Staging lets this machine's own address count as a shopper's.";
  setText(byId("setup-note"), state.username === null ? anyCredentials : "The credentials are those given to the sandbox.");
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setupText(state) {
  const local = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  const url = local ? location.origin : `http://127.0.0.1:${location.port}`;
  const [username, password] = state.username === null ? ["sandbox", "sandbox"] : [state.username, "..."];
  return [
    `export BUTTER_BASE_URL=${url}`,
    `export BUTTER_USERNAME=${quoted(username)}`,
    `export BUTTER_PASSWORD=${password}`,
    "export BUTTER_ENVIRONMENT=staging",
  ].join("\n");
}

const quoted = (text) => (/^[\w.@%+=:,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function cell(className, ...children) {
  const element = make("td", className);
  element.setAttribute("role", "cell");
  element.append(...children);
  return element;
}

function makeRow(entry, animated) {
  const { seq, at, outcome, record, times } = entry.data;
  const row = make("tr", entry.fresh && animated ? `record new ${outcome}-row` : `record ${outcome}-row`);
  entry.fresh = false;
  row.setAttribute("role", "row");
  const disclose = button(clock.format(new Date(at)), () => toggle(entry));
  disclose.className = "disclose";
  disclose.setAttribute("aria-expanded", "false");
  disclose.setAttribute("aria-label", `${disclose.textContent}, ${noun(entry).toLowerCase()} ${seq}`);
  const status = cell("outcome", make("span", `badge ${outcome}`, statusOf(entry) + (times > 1 ? ` x ${number(times)}` : "")));
  row.append(cell("time", disclose), status, ...(isSent(entry) ? recordCells(record) : [whyCell(entry.data)]));
  row.addEventListener("click", (event) => {
    const selects = getSelection().toString() !== "";
    if (!selects && !event.target.closest("button")) toggle(entry);
  });
  return row;
}

function recordCells(record) {
  const ids = make("div", "ids");
  for (const [name, label] of Object.entries(IDS)) if (record[name]) ids.append(makeId(label, record[name]));
  return [
    textCell("psp", record.psp),
    textCell("email", record.customer_email),
    textCell("address mono", record.ipv4_address),
    ids.children.length ? cell("numbers", ids) : textCell("numbers", ""),
  ];
}

function whyCell({ route, reason, message }) {
  const only = cell("why", make("code", "", short(reason)), make("span", "", withoutRoute(message, route).slice(0, 4 * SHOWN)));
  if (route) only.prepend(make("b", "", short(route)));
  only.colSpan = 4;
  return only;
}

const withoutRoute = (message, route) => (route && message.startsWith(`${route}: `) ? message.slice(route.length + 2) : message);

function textCell(className, text) {
  return text ? cell(className, short(text)) : cell(`${className} none`, "–");
}

function makeId(label, value) {
  const element = make("span", "id");
  element.append(make("b", "", label), make("code", "", short(value)));
  element.title = short(value);
  return element;
}

// One record, opened

function toggle(entry) {
  entry.open = !entry.open;
  const [row] = entry.nodes;
  row.classList.toggle("open", entry.open);
  row.querySelector(".disclose").setAttribute("aria-expanded", String(entry.open));
  if (entry.open) {
    entry.nodes.push(makeDetail(entry));
    row.after(entry.nodes[1]);
  } else {
    entry.nodes.pop().remove();
    schedule();
  }
}

function makeDetail(entry) {
  const { seq, outcome } = entry.data;
  const parts = isSent(entry) ? recordParts(entry.data) : [make("p", "remedy", entry.data.message)];
  const link = make("a", "", `Link to ${noun(entry).toLowerCase()} ${seq}`);
  link.href = `#${seq}`;
  const detail = make("tr", "detail");
  detail.setAttribute("role", "row");
  const only = cell("", makeTold(entry), ...parts, makeActions(entry.data, outcome, link));
  only.colSpan = 6;
  only.setAttribute("aria-label", `${noun(entry)} ${seq}`);
  detail.append(only);
  return detail;
}

function recordParts({ record, problems, body, sources, request, answer }) {
  const parts = [];
  if (problems.length) parts.push(makeProblems(problems));
  if (Object.keys(record).length) parts.push(makeFields(record, sources, problems));
  else if (body) parts.push(make("pre", "", body));
  const raw = make("details", "raw");
  raw.append(make("summary", "", "Request and answer"), make("pre", "", request), make("pre", "", answer || "(the connection was broken off)"));
  return [...parts, raw];
}

function makeActions({ record, body }, outcome, link) {
  const actions = make("div", "actions");
  if (outcome === "accepted" || outcome === "duplicate") {
    actions.append(button("Copy as pytest assertion", (source) => copy(assertion(record), source)));
    actions.firstChild.className = "main";
  }
  if (record) actions.append(button("Copy JSON", (source) => copy(body || JSON.stringify(record, null, 2), source)));
  actions.append(link);
  return actions;
}

function makeTold(entry) {
  const { seq, at, status, outcome, switched, duplicate_of: first, route, name, reason } = entry.data;
  const when = `${noun(entry)} ${seq}, ${day.format(new Date(at))}`;
  if (!isSent(entry)) return make("p", "told", `${when}. ${route ? `On ${short(route)}: ` : ""}${short(name)}, ${short(reason)}.`);
  const answered = status === null ? "the connection was broken off" : `answered ${status}`;
  const told = make("p", "told", `${when}, ${answered}${switched ? " by the switch" : ""}.`);
  if (route) told.append(` Captured on ${short(route)}.`);
  if (outcome === "duplicate") {
    told.append(" It has the PSP and IDs of ", button(`record ${first}`, () => find(`#${first}`)), ".");
  }
  return told;
}

function makeProblems(problems) {
  const list = make("ul", "problems");
  for (const { field, message } of problems) {
    const item = make("li");
    if (field) item.append(make("code", "", short(field)), ": ");
    item.append(message);
    list.append(item);
  }
  return list;
}

function makeFields(record, sources, problems) {
  const list = make("dl", "fields");
  for (const [name, value] of Object.entries(record)) {
    const group = make("div", problems.some((problem) => problem.field === name) ? "wrong" : "");
    group.append(make("dt", "", name), make("dd", "mono", value), make("dd", "source", sources[name] ?? ""));
    list.append(group);
  }
  return list;
}

function assertion(record) {
  const given = FIELDS.filter((name) => record[name]).map((name) => `${name}=${pythonString(record[name])}`);
  const oneLine = `butter_inbox.assert_sent(${given.join(", ")})`;
  return oneLine.length <= 100 ? oneLine : `butter_inbox.assert_sent(\n${given.map((item) => `    ${item},\n`).join("")})`;
}

function pythonString(text) {
  // JSON's escapes are Python's too. Invisible characters are escaped as well: they could disguise code.
  return JSON.stringify(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0);
    return code > 0xffff ? `\\U${code.toString(16).padStart(8, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

async function copy(text, source) {
  const before = source.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByHand(text);
  }
  source.textContent = "Copied";
  say("Copied.");
  setTimeout(() => { source.textContent = before; }, ANNOUNCE_MS);
}

function copyByHand(text) {
  // A page that is exposed over plain http has no clipboard API.
  const area = make("textarea", "unseen");
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}

// User actions

function filter() {
  view.terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  view.outcome = document.querySelector("[name=show]:checked").value;
  view.psp = choices.psp.value;
  view.route = choices.route.value;
  view.limit = WINDOW;
  view.matched = 0;
  for (const entry of inbox.entries) {
    entry.hit = matches(entry);
    view.matched += entry.hit;
  }
  schedule();
}

function find(text) {
  search.value = text;
  document.querySelector("[name=show][value=all]").checked = true;
  for (const select of Object.values(choices)) select.value = "";
  filter();
  search.focus();
}

async function tell(method, path, body) {
  const answer = await fetch(path, { method, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

function ask(method, path, body) {
  // One after the other, so that the last choice arrives last.
  asked.waiting += 1;
  asked.last = asked.last
    .then(() => tell(method, path, body).finally(() => { asked.waiting -= 1; }))
    .then(({ answer, switched }) => {
      // The stream may already have reported a later switch.
      if (switched >= inbox.state.switched) inbox.state = { ...inbox.state, answer, switched };
      complain("");
    }, (error) => complain(`The sandbox did not do that (${error.message}). Is it still running?`))
    .then(schedule);
}

search.addEventListener("input", filter);
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") find("");
});
for (const input of [...document.getElementsByName("show"), ...Object.values(choices)]) input.addEventListener("change", filter);
for (const send of document.getElementsByClassName("send-test")) {
  send.addEventListener("click", () => fetch("/api/test", { method: "POST" }).catch((error) => complain(`No test record was sent (${error.message}).`)));
}
addEventListener("hashchange", followLink);
byId("show-all").addEventListener("click", () => find(""));
for (const input of document.getElementsByName("answer")) {
  input.addEventListener("change", () => ask("PUT", "/api/answer", { answer: input.value }));
}
byId("clear").addEventListener("click", () => ask("DELETE", "/api/records"));
byId("copy-setup").addEventListener("click", (event) => copy(byId("setup").textContent, event.currentTarget));
pause.addEventListener("click", () => {
  view.pausedAt = view.pausedAt === null ? (inbox.entries.at(-1)?.data.seq ?? 0) : null;
  pause.setAttribute("aria-pressed", String(view.pausedAt !== null));
  schedule();
});
older.addEventListener("click", () => {
  view.limit += WINDOW;
  schedule();
});
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});
rows.addEventListener("keydown", (event) => {
  const buttons = [...rows.querySelectorAll(".disclose")];
  const at = buttons.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  buttons[to]?.focus();
});
document.addEventListener("visibilitychange", () => {
  view.unseen = 0;
  schedule();
});

function listen() {
  const events = new EventSource("/api/events");
  const show = (state, text) => {
    byId("live").dataset.state = state;
    setText(byId("live-text"), text);
  };
  events.addEventListener("open", () => show("live", "Live"));
  events.addEventListener("state", (event) => takeState(JSON.parse(event.data)));
  events.addEventListener("records", (event) => receive(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    show("lost", "Reconnecting");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

followLink();
listen();
