/** Go's net/http: its file server, its mux and a handler that cleans the path itself, built from its standard library. */

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { freePort } from '../bench/machine.ts'
import { find, run, type StartServers, succeeds } from './server.ts'

const source = `package main

import (
	"fmt"
	"net/http"
	"os"
	"path"
)

func say(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "resource:"+r.URL.Path) }

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", say)
	mux.HandleFunc("/secret/", say)
	clean := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "resource:"+path.Clean(r.URL.Path))
	})
	go http.ListenAndServe("127.0.0.1:"+os.Args[2], http.FileServer(http.Dir(os.Args[1])))
	go http.ListenAndServe("127.0.0.1:"+os.Args[3], mux)
	http.ListenAndServe("127.0.0.1:"+os.Args[4], clean)
}
`

export const startGo: StartServers = async (tree) => {
  const go = find('go')
  if (go === undefined) return undefined
  const folder = join(tree.folder, 'go')
  mkdirSync(folder)
  tree.write('go/main.go', source)
  tree.write('go/go.mod', 'module servers\n\ngo 1.20\n')
  if (!succeeds(go, ['build', '-o', 'servers', '.'], folder)) return undefined
  const [files, mux, clean] = [await freePort(), await freePort(), await freePort()]
  return await run(
    join(folder, 'servers'),
    [tree.root, String(files), String(mux), String(clean)],
    [
      { name: 'go, files', port: files },
      { name: 'go, mux', port: mux },
      { name: 'go, cleaned', port: clean },
    ],
  )
}
