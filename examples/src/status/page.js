
'use strict';
// All texts are set as text, never as markup: they come from the network.

const INTERVAL = 1000;
const TIMELINE = 120_000;
const RECENT = 60_000;
const MARKS = { good: '\u2713', info: '\u00b7', warning: '!', bad: '\u2715' };
const WRITABLE = ['RSPrimary', 'Standalone', 'Mongos', 'LoadBalancer'];

const find = (selector) => document.querySelector(selector);

/** An element with a class, a text or children, and attributes. */
function make(tag, name, content = [], attributes = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...[content].flat().map((part) => part instanceof Node ? part : String(part)));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** A name that may be hostile, apart from the direction of the text around it. */
const name = (text) => make('bdi', 'address', text);

/** A bar of this share of its line. */
function bar(kind, share) {
  const element = make('i', kind);
  element.style.width = `${Math.min(100, 100 * share)}%`;
  return element;
}

/** Replaces the children of an element if what they show has changed. */
const shown = new Map();
function show(selector, data, render) {
  const text = JSON.stringify(data);
  if (shown.get(selector) === text) return;
  shown.set(selector, text);
  find(selector).replaceChildren(...render(data));
}

const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
const duration = (ms) => ms < 1000 ? `${ms} ms` : `${ms / 1000} s`;
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);

/** The names of the buckets of wait times. */
const buckets = (bounds) =>
  ['at once', ...bounds.map((bound) => `\u2264 ${duration(bound)}`), `> ${duration(bounds.at(-1))}`];

/** The bucket in which the slowest hundredth begins. */
function slowest(counts, names) {
  const all = sum(counts);
  if (all === 0) return '';
  let seen = 0;
  return names[counts.findIndex((one) => (seen += one) >= 0.99 * all)];
}

/** The state of the whole, in one line: its level, a headline, and the details. */
function verdict({ topology, pools, totals }) {
  const waiting = totals.waiting + topology.waiting;
  const wait = waiting ? `${count(waiting, 'caller waits', 'callers wait')}.` : '';
  const unknown = topology.servers.filter((server) => server.type === 'Unknown').length;
  const down = unknown ? `${unknown} of ${count(topology.servers.length + topology.servers_omitted, 'server', 'servers')} unknown.` : '';
  if (topology.error) return ['bad', 'No operation can run.', topology.error];
  if (!topology.is_writable) {
    const set = topology.type.startsWith('ReplicaSet');
    return ['bad', set ? 'No primary: writes wait.' : 'No server for writes.', `${wait} ${down}`];
  }
  if (unknown) return ['warning', down, wait];
  if (waiting) return ['warning', wait, ''];
  const paused = pools.filter((pool) => pool.state === 'paused').length;
  if (paused) return ['warning', `${count(paused, 'pool is', 'pools are')} paused.`, ''];
  return ['good', 'All servers are available.', ''];
}

function showBanner([level, headline, details]) {
  const banner = find('#banner');
  const [mark, strong, rest] = banner.querySelectorAll('span, strong');
  document.title = `${MARKS[level]} Database`;
  // A screen reader reads each change.
  if (banner.dataset.level === level && strong.textContent === headline && rest.textContent === details) return;
  banner.dataset.level = level;
  [mark.textContent, strong.textContent, rest.textContent] = [MARKS[level], headline, details];
}

function tile([title, value, level]) {
  return make('div', '', [make('dt', '', title), make('dd', '', value, level ? { 'data-level': level } : {})]);
}

function server({ address, type, round_trip_time: time, error }) {
  const level = type === 'Unknown' ? 'bad' : WRITABLE.includes(type) ? 'good' : '';
  const mark = { bad: MARKS.bad, good: '\u25cf' }[level] ?? '\u25cb';
  const facts = make('div', 'facts', [
    make('span', 'kind', `${mark} ${type}`, level ? { 'data-level': level } : {}),
    make('span', 'rtt quiet', time === null ? '' : `RTT ${time.toFixed(1)} ms`),
  ]);
  const item = make('li', level, [name(address), facts], { 'data-type': type });
  if (error) item.append(make('p', 'error', error, { dir: 'auto' }));
  return item;
}

function pool(own, names) {
  const most = own.max_size || Math.max(own.size, 1);
  const use = make('div', 'use', [bar('in-use', own.in_use / most), bar('idle', own.idle / most)], {
    role: 'img', 'aria-label': `${own.in_use} in use and ${own.idle} idle of ${own.max_size || 'any number'}`,
  });
  const isFull = own.waiting > 0;
  const cells = [
    ['Server', name(own.server)], ['User', own.user === null ? '\u2013' : name(own.user)],
    ['State', make('span', 'kind', own.state, { 'data-level': own.state === 'ready' ? 'good' : 'bad' })],
    ['', use, 'wide'],
    ['In use', own.max_size ? `${own.in_use} of ${own.max_size}` : own.in_use, 'number'],
    ['Idle', own.idle, 'number'], ['Pending', own.pending, 'number'],
    ['Waiting', isFull ? make('span', 'alert', own.waiting) : 0, 'number'],
    ['Created', own.created, 'number'], ['Failed', own.closed_error, 'number'],
    ['p99 wait', slowest(own.wait_times, names), 'number'],
  ];
  return make('tr', own.state, cells.map(([label, content, kind]) =>
    make('td', kind, content, { 'data-label': label })), { 'data-server': own.server });
}

function event(own) {
  const times = own.count > 1 ? ` (${own.count} times since ${clock(own.first_time)})` : '';
  // Most errors name the server and the user themselves.
  const isNamed = own.server === null || own.text.includes(own.server);
  const place = isNamed ? '' : [own.server, own.user].filter((part) => part !== null).join(', user ');
  const text = [own.text, times].join('');
  return make('li', own.level, [
    make('time', '', clock(own.time)),
    make('span', '', MARKS[own.level], { 'data-level': own.level, title: own.level }),
    make('span', 'kind', own.kind),
    make('span', 'text', [place ? name(place) : '', place && text ? ': ' : '', make('bdi', '', text)]),
  ]);
}

// What this page has seen: the number of check-outs, and the state, at each moment.
let samples = [];

function remember({ time, topology, totals }) {
  samples = samples.filter((sample) => time - sample.time <= TIMELINE && sample.time < time);
  samples.push({
    time, inUse: totals.in_use, waiting: totals.waiting + topology.waiting,
    isWritable: topology.is_writable, waits: totals.wait_times,
  });
}

/** The check-outs of each bucket since the first sample that is no older than this. */
function since(age) {
  const last = samples.at(-1);
  const first = samples.find((sample) => last.time - sample.time <= age);
  const counts = last.waits.map((all, place) => Math.max(0, all - first.waits[place]));
  return { counts, seconds: (last.time - first.time) / 1000 };
}

function rate() {
  const { counts, seconds } = since(5 * INTERVAL);
  return seconds > 0 ? Math.round(sum(counts) / seconds).toLocaleString() : '\u2013';
}

const draw = (tag, kind, attributes) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  element.setAttribute('class', kind);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

function timeline() {
  const now = samples.at(-1).time;
  const most = Math.max(4, ...samples.map((sample) => Math.max(sample.inUse, sample.waiting)));
  const x = (time) => (600 * (1 - (now - time) / TIMELINE)).toFixed(1);
  const y = (number) => (100 - 100 * number / most).toFixed(1);
  const line = (key) => samples.map((sample) => `${x(sample.time)},${y(sample[key])}`).join(' ');
  const svg = draw('svg', '', { viewBox: '0 0 600 100', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  for (const [place, sample] of samples.entries()) {
    const end = samples[place + 1];
    if (sample.isWritable || !end) continue;
    const width = (x(end.time) - x(sample.time)).toFixed(1);
    svg.append(draw('rect', 'down', { x: x(sample.time), y: 0, width, height: 100 }));
  }
  svg.append(draw('line', 'base', { x1: 0, x2: 600, y1: 100, y2: 100 }));
  svg.append(draw('polygon', 'in-use', { points: `${x(samples[0].time)},100 ${line('inUse')} ${x(now)},100` }));
  svg.append(draw('polyline', 'waiting', { points: line('waiting') }));
  const scale = make('div', 'scale quiet', [make('span', '', most), make('span', '', '0')]);
  find('#timeline').replaceChildren(scale, svg);
}

function waits([names, all, recent]) {
  const share = (counts, place) => counts[place] / Math.max(1, ...counts);
  return names.map((title, place) => make('tr', '', [
    make('th', '', title, { scope: 'row' }),
    make('td', '', [bar('total', share(all, place)), bar('recent', share(recent, place))]),
    make('td', 'number', all[place].toLocaleString()),
  ]));
}

function render(report) {
  const { topology, pools, totals } = report;
  remember(report);
  const names = buckets(report.wait_time_bounds);
  showBanner(verdict(report));
  find('#updated').textContent = `updated ${clock(report.time)}`;
  find('#set').textContent = [topology.type, topology.set_name].filter(Boolean).join(' ');
  show('#tiles', [
    ['Check-outs per second', rate()],
    ['Connections in use', totals.in_use], ['Idle connections', totals.idle],
    ['Waiting for a connection', totals.waiting, totals.waiting ? 'warning' : ''],
    ['Waiting for a server', topology.waiting, topology.waiting ? 'bad' : ''],
    ['p99 wait, last minute', slowest(since(RECENT).counts, names) || '\u2013'],
  ], (tiles) => tiles.map(tile));
  show('#servers', [topology.servers, topology.servers_omitted], ([servers, omitted]) =>
    [...servers.map(server), ...rest('li', omitted, 'servers')]);
  show('#pools tbody', [pools, report.pools_omitted], ([own, omitted]) =>
    [...own.map((one) => pool(one, names)), ...rest('tr', omitted, 'pools')]);
  show('#waits tbody', [names, totals.wait_times, since(RECENT).counts], waits);
  show('#events', report.events, (events) => events.map(event));
  timeline();
}

const rest = (tag, omitted, what) => omitted ? [make(tag, 'quiet', `and ${omitted} other ${what}`)] : [];

async function update() {
  try {
    if (document.hidden && samples.length) return;
    const response = await fetch('?json', { cache: 'no-store', signal: AbortSignal.timeout(5 * INTERVAL) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    render(await response.json());
    document.body.classList.remove('lost');
  } catch (error) {
    document.body.classList.add('lost');
    showBanner(['info', 'The service does not answer.', 'The numbers below are old.']);
  } finally {
    setTimeout(update, INTERVAL);
  }
}
update();
