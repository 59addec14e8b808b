// Prompts for a model that knows few words: which of a text's it does not know, and one style put for another.

const wordsIn = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** The words of `text` that the model overlooks, each once. known: of /api/params, null where it knows nearly all. */
export function unknownWords(text, known) {
  if (!known) return [];
  const all = new Set([...Object.values(known.groups).flat(), ...known.fillers]);
  // Weights are no words: (red sphere:1.3), (...).blend(0.7, 0.3).
  const words = wordsIn(text.replace(/\)\s*\.\s*blend\s*\(/giu, " "));
  return [...new Set(words)].filter((word) => !all.has(word) && !/^\p{N}+$/u.test(word));
}

/** The first style that `text` names, or undefined. */
export function styleOf(text, styles) {
  return wordsIn(text).find((word) => styles.includes(word));
}

/** `text` with `style` in the place of the style that it names, or before everything else. */
export function withStyle(text, style, styles) {
  const old = styleOf(text, styles);
  if (old !== undefined) return text.replace(new RegExp(`(?<![\\p{L}\\p{N}])${old}(?![\\p{L}\\p{N}])`, "iu"), style);
  return text.trim() ? `${style} style, ${text.trim()}` : `${style} style`;
}
