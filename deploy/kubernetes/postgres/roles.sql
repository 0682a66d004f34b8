-- One role a service, with the least that its work needs. Run once, by psql as a superuser, in an empty database:
--   SECONDLOOK_PASSWORDS=FOLDER psql --dbname DATABASE --file roles.sql
-- FOLDER holds the files owner, gateway, worker, reviewer and station, a password each. The tables come later, from
-- `secondlook users list` with the owner's role; an event trigger gives the others their rights as soon as a table is
-- made. A server that allows no event triggers: run the loop below by hand after each upgrade.
\set ON_ERROR_STOP on
\set owner `cat "$SECONDLOOK_PASSWORDS/owner"`
\set gateway `cat "$SECONDLOOK_PASSWORDS/gateway"`
\set worker `cat "$SECONDLOOK_PASSWORDS/worker"`
\set reviewer `cat "$SECONDLOOK_PASSWORDS/reviewer"`
\set station `cat "$SECONDLOOK_PASSWORDS/station"`

BEGIN;

CREATE ROLE secondlook_owner LOGIN PASSWORD :'owner';
CREATE ROLE secondlook_gateway LOGIN PASSWORD :'gateway';
CREATE ROLE secondlook_worker LOGIN PASSWORD :'worker';
CREATE ROLE secondlook_reviewer LOGIN PASSWORD :'reviewer';
CREATE ROLE secondlook_station LOGIN PASSWORD :'station';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME"
    TO secondlook_owner, secondlook_gateway, secondlook_worker, secondlook_reviewer, secondlook_station;

-- Ledger and requests are the gateways' own: nobody else reads them, and they read nothing else.
CREATE SCHEMA gateway AUTHORIZATION secondlook_gateway;
CREATE SCHEMA catalogue AUTHORIZATION secondlook_owner;
GRANT USAGE ON SCHEMA catalogue TO secondlook_worker, secondlook_reviewer, secondlook_station;

ALTER ROLE secondlook_gateway IN DATABASE :"DBNAME" SET search_path = gateway;
ALTER ROLE secondlook_owner IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_worker IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_reviewer IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_station IN DATABASE :"DBNAME" SET search_path = catalogue;

CREATE FUNCTION public.secondlook_rights() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    line record;
BEGIN
    IF current_user <> 'secondlook_owner' THEN
        RETURN;
    END IF;
    FOR line IN
        SELECT * FROM (VALUES
            -- Who decodes and detects: files frames, and the reviews that they call for.
            ('secondlook_worker', 'schema_version', 'SELECT'),
            ('secondlook_worker', 'cameras', 'SELECT, INSERT, UPDATE'),
            ('secondlook_worker', 'frames', 'SELECT, INSERT'),
            ('secondlook_worker', 'detections', 'SELECT, INSERT'),
            ('secondlook_worker', 'reviews', 'SELECT, INSERT'),
            ('secondlook_worker', 'tombstones', 'SELECT, INSERT, DELETE'),
            ('secondlook_worker', 'audit', 'SELECT, INSERT'),
            -- Who refines: leases reviews and says what came of them.
            ('secondlook_reviewer', 'schema_version', 'SELECT'),
            ('secondlook_reviewer', 'frames', 'SELECT'),
            ('secondlook_reviewer', 'reviews', 'SELECT, UPDATE'),
            ('secondlook_reviewer', 'audit', 'SELECT, INSERT'),
            -- What people see: verdicts are undone by a mark, users stay under their names, and the audit trail grows.
            ('secondlook_station', 'schema_version', 'SELECT'),
            ('secondlook_station', 'cameras', 'SELECT'),
            ('secondlook_station', 'frames', 'SELECT'),
            ('secondlook_station', 'detections', 'SELECT'),
            ('secondlook_station', 'tombstones', 'SELECT'),
            ('secondlook_station', 'reviews', 'SELECT, UPDATE'),
            ('secondlook_station', 'verdicts', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'audit', 'SELECT, INSERT'),
            ('secondlook_station', 'users', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'user_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'api_tokens', 'SELECT, INSERT, UPDATE')
        ) AS rights (role, name, allowed)
    LOOP
        IF to_regclass('catalogue.' || line.name) IS NOT NULL THEN
            EXECUTE format('GRANT %s ON catalogue.%I TO %I', line.allowed, line.name, line.role);
        END IF;
    END LOOP;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA catalogue TO secondlook_worker, secondlook_reviewer, secondlook_station;
END
$$;
CREATE EVENT TRIGGER secondlook_rights ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION public.secondlook_rights();

COMMIT;
