-- One role a service, with the least that its work needs. Run once, by psql as a superuser, in an empty database:
--   SECONDLOOK_PASSWORDS=FOLDER psql --dbname DATABASE --file roles.sql
-- FOLDER holds the files owner, gateway, worker, refiner, retention and station, a password each. The tables come
-- later, from `secondlook catalogue upgrade` with the owner's role; an event trigger gives the others their rights as
-- soon as a table is made. A server that allows no event triggers: run the loop below by hand after each upgrade.
\set ON_ERROR_STOP on
\set owner `cat "$SECONDLOOK_PASSWORDS/owner"`
\set gateway `cat "$SECONDLOOK_PASSWORDS/gateway"`
\set worker `cat "$SECONDLOOK_PASSWORDS/worker"`
\set refiner `cat "$SECONDLOOK_PASSWORDS/refiner"`
\set retention `cat "$SECONDLOOK_PASSWORDS/retention"`
\set station `cat "$SECONDLOOK_PASSWORDS/station"`

BEGIN;

CREATE ROLE secondlook_owner LOGIN PASSWORD :'owner';
CREATE ROLE secondlook_gateway LOGIN PASSWORD :'gateway';
CREATE ROLE secondlook_worker LOGIN PASSWORD :'worker';
CREATE ROLE secondlook_refiner LOGIN PASSWORD :'refiner';
CREATE ROLE secondlook_retention LOGIN PASSWORD :'retention';
CREATE ROLE secondlook_station LOGIN PASSWORD :'station';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME"
    TO secondlook_owner, secondlook_gateway, secondlook_worker, secondlook_refiner, secondlook_retention,
        secondlook_station;

-- Ledger and requests are the gateways' own: nobody else reads them, and they read nothing else.
CREATE SCHEMA gateway AUTHORIZATION secondlook_gateway;
CREATE SCHEMA catalogue AUTHORIZATION secondlook_owner;
GRANT USAGE ON SCHEMA catalogue
    TO secondlook_worker, secondlook_refiner, secondlook_retention, secondlook_station;

ALTER ROLE secondlook_gateway IN DATABASE :"DBNAME" SET search_path = gateway;
ALTER ROLE secondlook_owner IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_worker IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_refiner IN DATABASE :"DBNAME" SET search_path = catalogue;
ALTER ROLE secondlook_retention IN DATABASE :"DBNAME" SET search_path = catalogue;
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
            -- Everybody asks whether the tables are those of this version; only the owner changes them.
            ('secondlook_worker', 'catalogue_version', 'SELECT'),
            ('secondlook_refiner', 'catalogue_version', 'SELECT'),
            ('secondlook_retention', 'catalogue_version', 'SELECT'),
            ('secondlook_station', 'catalogue_version', 'SELECT'),
            -- Who decodes and detects: files frames, and the reviews that they call for; skips others for them, unless
            -- somebody has judged those.
            ('secondlook_worker', 'cameras', 'SELECT, INSERT, UPDATE'),
            ('secondlook_worker', 'camera_events', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_worker', 'frames', 'SELECT, INSERT, UPDATE (retention, retention_ns)'),
            ('secondlook_worker', 'detections', 'SELECT, INSERT, UPDATE (object_id)'),
            ('secondlook_worker', 'objects', 'SELECT, INSERT, UPDATE'),
            ('secondlook_worker', 'reviews', 'SELECT, INSERT, '
                'UPDATE (state, lease_owner, lease_until_ns, why_waiting, not_before_ns)'),
            ('secondlook_worker', 'review_reasons', 'SELECT, INSERT'),
            ('secondlook_worker', 'verdicts', 'SELECT (id, review_id)'),
            ('secondlook_worker', 'tombstones', 'SELECT, INSERT, DELETE'),
            ('secondlook_worker', 'site_secrets', 'SELECT, INSERT'),
            ('secondlook_worker', 'audit', 'SELECT, INSERT'),
            ('secondlook_worker', 'audit_head', 'SELECT, UPDATE'),
            -- Who refines: leases reviews and says what came of them; of one that is settled nobody is asked.
            ('secondlook_refiner', 'frames', 'SELECT, UPDATE (stored_bytes, retention, retention_ns)'),
            ('secondlook_refiner', 'reviews', 'SELECT, UPDATE'),
            ('secondlook_refiner', 'audit', 'SELECT, INSERT'),
            ('secondlook_refiner', 'audit_head', 'SELECT, UPDATE'),
            -- Who deletes: marks frames, and removes them with all that hangs on them. It changes nothing else.
            ('secondlook_retention', 'frames', 'SELECT, DELETE, UPDATE (retention)'),
            ('secondlook_retention', 'detections', 'SELECT, DELETE'),
            ('secondlook_retention', 'objects', 'SELECT, DELETE'),
            ('secondlook_retention', 'reviews', 'SELECT, DELETE'),
            ('secondlook_retention', 'claims', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'double_reviews', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'opinions', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'known_frames', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'comments', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'handovers', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'judged_boxes', 'SELECT (review_id), DELETE'),
            ('secondlook_retention', 'review_reasons', 'SELECT, DELETE'),
            ('secondlook_retention', 'verdicts', 'SELECT (id, review_id), DELETE'),
            ('secondlook_retention', 'tombstones', 'SELECT, DELETE'),
            ('secondlook_retention', 'audit', 'SELECT, INSERT'),
            ('secondlook_retention', 'audit_head', 'SELECT, UPDATE'),
            -- What people see: verdicts are undone by a mark, users stay under their names, and the audit trail grows.
            ('secondlook_station', 'cameras', 'SELECT'),
            ('secondlook_station', 'camera_events', 'SELECT'),
            ('secondlook_station', 'frames', 'SELECT, UPDATE (retention, retention_ns)'),
            ('secondlook_station', 'detections', 'SELECT'),
            ('secondlook_station', 'objects', 'SELECT'),
            ('secondlook_station', 'tombstones', 'SELECT'),
            ('secondlook_station', 'reviews', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'review_reasons', 'SELECT, INSERT'),
            ('secondlook_station', 'claims', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'double_reviews', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'opinions', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'known_frames', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'comments', 'SELECT, INSERT, UPDATE (text, deleted_ns)'),
            ('secondlook_station', 'handovers', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'judged_boxes', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'station_secrets', 'SELECT, INSERT'),
            ('secondlook_station', 'preferences', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'verdicts', 'SELECT, INSERT, UPDATE (undone_ns, withheld)'),
            ('secondlook_station', 'audit', 'SELECT, INSERT'),
            ('secondlook_station', 'audit_head', 'SELECT, UPDATE'),
            ('secondlook_station', 'users', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'user_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'api_tokens', 'SELECT, INSERT, UPDATE'),
            -- Who tells other systems (secondlook notify), in the station's role: it reads what the station shows.
            ('secondlook_station', 'deliveries', 'SELECT, INSERT, UPDATE, DELETE'),
            ('secondlook_station', 'notified', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'notified_cameras', 'SELECT, INSERT, UPDATE'),
            ('secondlook_station', 'senders', 'SELECT, INSERT, UPDATE, DELETE')
        ) AS rights (role, name, allowed)
    LOOP
        IF to_regclass('catalogue.' || line.name) IS NOT NULL THEN
            BEGIN
                EXECUTE format('GRANT %s ON catalogue.%I TO %I', line.allowed, line.name, line.role);
            EXCEPTION WHEN undefined_column THEN
                NULL;  -- a later step of the migration adds it, and fires this once more
            END;
        END IF;
    END LOOP;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA catalogue
        TO secondlook_worker, secondlook_refiner, secondlook_retention, secondlook_station;
END
$$;
CREATE EVENT TRIGGER secondlook_rights ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION public.secondlook_rights();

COMMIT;
