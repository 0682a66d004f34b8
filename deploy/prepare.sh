#!/bin/sh
# Make what the services of deploy/compose or deploy/kubernetes prove themselves by, in a new folder:
#   sh deploy/prepare.sh deploy/compose/secrets
# Each service gets its own. Nothing is overwritten. SECONDLOOK says how the command is called, NATS_NAME what the
# gateways call the queue's server.
set -eu
umask 077
folder=$1
secondlook=${SECONDLOOK:-secondlook}
nats=${NATS_NAME:-nats}
mkdir "$folder"
cd "$folder"

# The link: one pair for all gateways, one each for workers, refiners and every camera host (`keys new`, later).
$secondlook keys new gateway --role gateway --folder . >/dev/null
for role in worker refiner; do
    $secondlook keys new "$role" --role worker --folder . --registry registry.json >/dev/null
done

# The queue: NATS lets in who holds this NKey, by TLS.
$secondlook keys nats gateway --folder . >/dev/null
printf 'GATEWAY_NKEY=%s\n' "$(cat gateway.nkey_public)" >nats.env
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=secondlook private CA" \
    -keyout ca.pem_secret -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$nats" \
    -keyout nats.pem_secret -out nats.csr 2>/dev/null
printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:false\n' "$nats" >nats.ext
openssl x509 -req -in nats.csr -CA ca.crt -CAkey ca.pem_secret -CAcreateserial -days 825 -extfile nats.ext \
    -out nats.crt 2>/dev/null
rm -f nats.csr nats.ext ca.srl

# The database: a role each. deploy/kubernetes/postgres/roles.sql says what they may.
mkdir postgres
for role in owner gateway worker refiner retention station; do
    openssl rand -hex 24 | tr -d '\n' >"postgres/$role"
    printf 'PGUSER=secondlook_%s\nPGPASSWORD=%s\n' "$role" "$(cat "postgres/$role")" >"$role.env"
done
openssl rand -hex 24 | tr -d '\n' >postgres/superuser

# The station's first user, `admin`: its password, for the Job of Kubernetes. Change it on the page.
openssl rand -hex 12 >first-user
