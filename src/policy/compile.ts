/** Compiles a prepared module. */
import { GateError } from '../errors.ts'

/** @throws GateError ERR_BUNDLE_POLICY */
export async function compileModule(bytes: Uint8Array): Promise<WebAssembly.Module> {
  try {
    return await WebAssembly.compile(bytes)
  } catch (error) {
    // It quotes names of functions, which the maker of the module has chosen.
    const message = (error as Error).message.slice(0, 300)
    throw new GateError('ERR_BUNDLE_POLICY', `policy.wasm does not compile: ${message}`, {
      cause: error,
      hint: invalidCode(message),
    })
  }
}

/** opa 1.22 makes such a module where a rule walks through a package: it calls the functions there without arguments. */
function invalidCode(message: string): string {
  const [, rule] = /"g\d+\.data\.([^"]*)"/.exec(message) ?? []
  return rule === undefined
    ? 'opa has compiled the policy to invalid code: build it again with another version of opa'
    : `opa has compiled the rule ${rule} to invalid code. It does so where a rule walks through a package that has functions (data.lib[name], some x in data.lib): name the rules one by one, or move the functions into another package`
}
