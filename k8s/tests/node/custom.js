// Validates documents of kinds that clusters learn from others. In: JSON documents, one a line. Out, for each: "good", or
// what is wrong.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const models = {
  HTTPRoute: '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute',
  PodMonitor: '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor',
  PrometheusRule: '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule',
};

for await (const line of createInterface({ input: process.stdin })) {
  const document = JSON.parse(line);
  console.log(JSON.stringify(await problem(document)));
}

async function problem(document) {
  const path = models[document.kind];
  const { [document.kind]: Model } = await import(path);
  try {
    new Model(document).validate();
  } catch (error) {
    return error.message;
  }
  // The models let unknown fields pass; their type declarations know which there are.
  const declared = declarations(path);
  const unknown = fields(document.spec).filter((name) => !declared.includes(`"${name}"`));
  return unknown.length ? `unknown: ${unknown}` : 'good';
}

// Of all kinds of the API group, as one text.
function declarations(path) {
  const folder = dirname(fileURLToPath(import.meta.resolve(path)));
  const files = readdirSync(folder).filter((name) => name.endsWith('.d.ts'));
  return files.map((name) => readFileSync(join(folder, name), 'utf8')).join('\n');
}

// Names of all fields, but for labels and what holds them, which are declared elsewhere.
function fields(value) {
  if (Array.isArray(value)) return value.flatMap(fields);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => (['matchLabels', 'labels', 'annotations'].includes(name) ? [] : [name, ...fields(inner)]));
}
