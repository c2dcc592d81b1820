#!/bin/sh
# How the certificates beside this file were made; they are for tests only and trusted by nobody else.
set -e
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
authority() { key "$1"; openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 36500 -out "$1.pem"; }
leaf() {
  echo "subjectAltName=$3" > "$1.ext"
  key "$1"
  openssl req -new -key "$1.key" -subj "/CN=$1" |
    openssl x509 -req -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 -extfile "$1.ext" -out "$1.pem"
}
authority authority
authority stranger
leaf server authority DNS:localhost,DNS:api.example,DNS:other.example,IP:127.0.0.1
leaf renewed authority DNS:localhost,DNS:api.example,IP:127.0.0.1
leaf client authority DNS:client.example
leaf impostor stranger DNS:localhost,DNS:client.example,IP:127.0.0.1
rm -f ./*.srl ./*.ext stranger.key authority.key
