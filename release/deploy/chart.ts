export function tryChart(say: (text: string) => void): void {
  say('todo')
}
