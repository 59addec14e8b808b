// How the page and the sample scene show example prompts.

/** The examples without the words that all of them end with: in a demo they differ in the style alone. */
export function shortened(examples) {
  if (examples.length < 2) return examples; // and of none there is no shortest
  const parts = examples.map((text) => text.split(", "));
  const shortest = Math.min(...parts.map((words) => words.length));
  let same = 0;
  while (same + 1 < shortest && parts.every((words) => words.at(-1 - same) === parts[0].at(-1 - same))) same += 1;
  return parts.map((words) => words.slice(0, words.length - same).join(", "));
}
