/** What inputs for the judges are put together from: innocent words and those that readers have disagreed about. */
import { pieces } from '../harness/pieces.ts'
import { listNames } from './headers.ts'

export const targetWords: readonly string[] = [
  ...pieces,
  'http://api.example.com', 'HTTP://API.EXAMPLE.COM:80', 'http://evil', 'https://', 'http:', '@', 'api.example.com', '%25%32%65', '%2525', '%252f', '%255c',
  '%e2%82%ac', '%f0%9f%94%91', '%ed%a0%80', '%f4%90%80%80', '%c3', '%80', '%c2%85', '%7F', '%3b', '%3B', '..%3b', '..;', '.;', ';a=', '[', '{', '<', '\x7f', '\0', '\t',
] // biome-ignore format: a table

export const hostWords: readonly string[] = [
  'a', 'B', 'api', 'example', 'com', '.', '..', '-', '_', ':', '80', '8080', '0', '443', '65535', '65536', '[', ']', '::', '::1', 'fe80', '1', '127', '0x7f',
  '0177', '255', '256', '1.2.3.4', '%25', '%', '@', '/', '\\', '#', '?', ' ', ',', '\xe9', 'xn--', 'a'.repeat(63), 'a'.repeat(64), '0:0:0:0:0:0:0:1', 'ffff', '2001:db8', '[fe80::1%25eth0]',
] // biome-ignore format: a table

export const headerNames: readonly string[] = [
  ...listNames,
  'Host', 'host', 'HOST', 'Cookie', 'DPoP', 'Destination', 'Authorization', 'authorization', 'Content-Length', 'Transfer-Encoding', 'Content-Type', 'Expect', 'Origin', 'Upgrade', 'HTTP2-Settings',
  'Proxy-Authorization', 'Keep-Alive', 'Proxy-Connection', 'X-Dropgate-Subject', 'x-dropgate-route', 'X_Dropgate_Subject', 'X.Dropgate.Subject', 'X-Dropgate',
  'X-Forwarded-For', 'X-Forwarded-Uri', 'X-Forwarded-Method', 'X-Forwarded', 'X-Forwardedx', 'X-Original-URL', 'X-Rewrite-URL', 'X-Real-IP', 'X-Auth-User', 'X-Authx',
  'X-User', 'X-Useful', 'X-User-Id', 'X-Auth-Token', 'X-Auth', 'X-Auth-Request-User', 'X-Authentik-Uid', 'Remote-User', 'Remote-Desk', 'Cf-Access-Jwt-Assertion', 'Cf-Access-Client-Id', 'Tailscale-User-Login', 'Shib-Session-Id', 'Oidc-Claim-Sub', 'Oidc', 'X-HTTP-Method-Override', 'X-Envoy-A', 'X-A', 'x-a', 'X-B', 'X-Hop', '__proto__', 'constructor', '', 'a b', 'a:', '\xe9', "!#$%&'*+-^`|~",
] // biome-ignore format: a table

export const headerValues: readonly string[] = [
  '', 'a', 'a, b', 'x-hop', 'X-HOP, close', ',, x-a ,', 'authorization', 'AUTHORIZATION', 'x_dropgate_subject', 'x.real.ip', 'content-length', 'cookie, x-b',
  'x-original-url', 'x-envoy-a', 'origin', 'chunked', 'CHUNKED', 'gzip, chunked', '5', '05', '+5', '5, 5', '9007199254740993', '99999999999999999', '100-continue', '100-CONTINUE', 'x',
  'api.example.com', 'caf\xe9', 'caf\xc3\xa9', '\xc3', '\xa0', '\xed\xa0\x80', 'a\0b', 'a\rb', 'a\nb', 'a\tb', '\x7f', 'Bearer a.b.c', 'a'.repeat(5000),
] // biome-ignore format: a table

export const jsonWords: readonly string[] = [
  '{', '}', '[', ']', ',', ':', '"a"', '"alg"', '"ES256"', '"kid"', '"typ"', '"at+jwt"', '"application/AT+JWT"', '"crit"', '"b64"', '"zip"', '"enc"', '"\\u0061"',
  '"__proto__"', '"\\ud800"', '1', '-0', '1e400', '01', '1.', 'true', 'null', ' ', '\n', '\u00a0', '\ufeff', '\xff', '\\', '"', '"\t"', '"é"', '[[[[[[[[', ']]]]]]]]',
  `"${'k'.repeat(257)}"`,
] // biome-ignore format: a table
