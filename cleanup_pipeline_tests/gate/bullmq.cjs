// A real BullMQ, told on stdin what to do: each line is {"code": "…", "connection": {…}, "prefix": "…"}, each answer a
// line too. What the code opens stays open (a worker in the midst of a job) until `reset`.
const readline = require("readline");
const bullmq = require(process.argv[2]);

const NAME = "cleanup-expired-messages";
const AsyncFunction = (async () => {}).constructor;
let opened = [];

function tools({ connection, prefix }) {
  const options = { connection, prefix };
  const keep = (thing) => {
    thing.on("error", () => {});
    opened.push(thing);
    return thing;
  };
  const queueOf = (name) => keep(new bullmq.Queue(name, options));
  const queue = queueOf("after-hours-message-cleanup");
  const schedule = async (jobOptions = {}, pattern = "0 3 * * *") => {
    if (queue.upsertJobScheduler) {
      await queue.upsertJobScheduler("daily-cleanup", { pattern }, { name: NAME, opts: jobOptions });
    } else {
      await queue.add(NAME, {}, { ...jobOptions, repeat: { pattern } });
    }
    return (await queue.getDelayed())[0];
  };
  // Takes jobs and does `process` with each; answers once `event` has happened.
  const work = (process, event, workerOptions = {}) => {
    const worker = keep(new bullmq.Worker("after-hours-message-cleanup", process, { ...options, ...workerOptions }));
    return new Promise((resolve) => worker.once(event, resolve));
  };
  const forever = () => new Promise(() => {});
  return { NAME, queue, queueOf, schedule, work, forever, reset };
}

async function reset() {
  const closing = opened.reverse();
  opened = [];
  for (const thing of closing) await thing.close(true);
}

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { code, ...where } = JSON.parse(line);
  let answer;
  try {
    const given = tools(where);
    const result = await new AsyncFunction(...Object.keys(given), code)(...Object.values(given));
    answer = { result: result ?? null };
  } catch (error) {
    answer = { error: String(error && error.stack) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}).on("close", () => process.exit(0));
