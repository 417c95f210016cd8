// `HttpAgent` with its own verifier: each run is told as one line of JSON. Arguments: the URL of an agent.
import { HttpAgent } from "@ag-ui/client";

const warnings = [];
for (const name of ["warn", "error"]) console[name] = (...words) => warnings.push(words.map(String).join(" "));

const agent = new HttpAgent({ url: process.argv[2], threadId: "thread" });

async function run(parameters = {}) {
  const events = [];
  let failure = null;
  try {
    await agent.runAgent(parameters, { onEvent: ({ event }) => void events.push(event.type) });
  } catch (error) {
    failure = String(error);
  }
  console.log(
    JSON.stringify({
      events: events.filter((type, place) => type !== events[place - 1]),
      messages: agent.messages,
      pending: agent.pendingInterrupts,
      warnings: warnings.splice(0),
      failure,
    }),
  );
}

const say = (id, content) => agent.addMessage({ id, role: "user", content });

say("m1", "look at Rome");
await run();
await run(); // nothing new to say: the same turn again
say("m2", "and then?");
await run();
say("m3", "pay");
await run();
const [asked] = agent.pendingInterrupts;
await run({ resume: [{ interruptId: asked.id, status: "resolved", payload: { approved: true } }] });
say("m4", "pay twice");
await run();
await run({
  resume: agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: "cancelled" })),
});
say("m5", "decline");
await run();
