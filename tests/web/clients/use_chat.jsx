// A page of `useChat`, as its documentation writes one. The test drives what the hook gives: `window.chat`.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai";
import { createRoot } from "react-dom/client";

const api = "/chat/ai-sdk/helper";
const id = new URLSearchParams(location.search).get("chat");
const here = `${api}/${encodeURIComponent(id)}`;

window.stored = async () => (await fetch(`${here}/messages`)).json();
window.stopTurn = () =>
  fetch(`${here}/stop`, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" });
window.failures = [];

function Page({ messages }) {
  const chat = useChat({
    id,
    messages,
    resume: true,
    transport: new DefaultChatTransport({ api }),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    onError: (error) => window.failures.push(String(error)),
  });
  window.chat = chat;
  return (
    <main data-status={chat.status}>
      {chat.messages.map((message) => (
        <article key={message.id} data-role={message.role}>
          {message.parts.map((part, place) => (
            <p key={place}>{part.type === "text" ? part.text : JSON.stringify(part.output ?? null)}</p>
          ))}
        </article>
      ))}
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Page messages={await window.stored()} />);
