// Renders /openapi.json. The usual viewers come from a content network, which the station never talks to.

import { BASE } from "./base.js";
import { element } from "./panels.js";

function resolved(schema, spec, depth = 0) {
  if (!schema || depth > 4) return "…";
  if (schema.$ref) return resolved(spec.components.schemas[schema.$ref.split("/").pop()], spec, depth);
  if (schema.anyOf) return schema.anyOf.map((part) => resolved(part, spec, depth + 1));
  if (schema.prefixItems) return schema.prefixItems.map((part) => part.type).join(", ");
  if (schema.type === "array") return [resolved(schema.items, spec, depth + 1)];
  if (schema.properties) {
    const names = Object.entries(schema.properties);
    return Object.fromEntries(names.map(([name, part]) => [name, resolved(part, spec, depth + 1)]));
  }
  if (schema.enum) return schema.enum.join(" | ");
  return schema.format ? `${schema.type} (${schema.format})` : (schema.type ?? "any");
}

const block = (heading, value) => [
  element("h3", { text: heading }),
  element("pre", { text: typeof value === "string" ? value : JSON.stringify(value, null, 2) }),
];

function operation(path, method, details, spec) {
  const body = element("div", { className: "body" }, element("p", { text: details.description ?? "" }));
  const parameters = (details.parameters ?? []).map(
    (given) => `${given.name} (${given.in}${given.required ? "" : ", optional"}): ${JSON.stringify(resolved(given.schema, spec))}`,
  );
  if (parameters.length) body.append(...block("Parameters", parameters.join("\n")));
  const request = details.requestBody?.content["application/json"];
  if (request) body.append(...block("Request", resolved(request.schema, spec)));
  const answer = details.responses["200"]?.content?.["application/json"];
  if (answer && Object.keys(answer.schema).length) body.append(...block("Answer", resolved(answer.schema, spec)));
  return element(
    "details",
    {},
    element(
      "summary",
      {},
      element("span", { className: `method ${method}`, text: method.toUpperCase() }),
      element("span", { className: "mono", text: path }),
      ` · ${details.summary}`,
    ),
    body,
  );
}

const spec = await (await fetch(`${BASE}openapi.json`)).json();
document.title = spec.info.title;
document.getElementById("title").textContent = spec.info.title;
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, details] of Object.entries(methods)) {
    document.getElementById("operations").append(operation(path, method, details, spec));
  }
}
