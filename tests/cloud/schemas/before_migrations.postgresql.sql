CREATE TABLE api_tokens (
    id bigint NOT NULL,
    "user" character varying(64) NOT NULL,
    label character varying(64) NOT NULL,
    role character varying(16) NOT NULL,
    secret_sha256 character varying(64) NOT NULL,
    created_ns bigint NOT NULL,
    expires_ns bigint,
    revoked_ns bigint,
    CONSTRAINT role CHECK (((role)::text = ANY ((ARRAY['viewer'::character varying, 'reviewer'::character varying, 'admin'::character varying])::text[])))
);
CREATE SEQUENCE api_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE api_tokens_id_seq OWNED BY api_tokens.id;
CREATE TABLE audit (
    id bigint NOT NULL,
    at_ns bigint NOT NULL,
    actor character varying(128) NOT NULL,
    action character varying(64) NOT NULL,
    subject character varying(255) NOT NULL,
    detail json NOT NULL
);
CREATE SEQUENCE audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE audit_id_seq OWNED BY audit.id;
CREATE TABLE cameras (
    edge_id character varying(64) NOT NULL,
    camera character varying(255) NOT NULL,
    first_seen_ns bigint NOT NULL,
    last_seen_ns bigint NOT NULL
);
CREATE TABLE detections (
    id bigint NOT NULL,
    frame_id bigint NOT NULL,
    label character varying(64) NOT NULL,
    score double precision NOT NULL,
    x0 double precision NOT NULL,
    y0 double precision NOT NULL,
    x1 double precision NOT NULL,
    y1 double precision NOT NULL,
    detector character varying(255) NOT NULL
);
CREATE SEQUENCE detections_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE detections_id_seq OWNED BY detections.id;
CREATE TABLE frames (
    id bigint NOT NULL,
    edge_id character varying(64) NOT NULL,
    boot_id character varying(32) NOT NULL,
    seq bigint NOT NULL,
    captured_ns bigint NOT NULL,
    received_ns bigint NOT NULL,
    detected_ns bigint NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    key_seq bigint,
    base_blob character varying(255) NOT NULL,
    base_bytes integer NOT NULL,
    enhancement_bytes integer NOT NULL
);
CREATE SEQUENCE frames_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE frames_id_seq OWNED BY frames.id;
CREATE TABLE reviews (
    id bigint NOT NULL,
    frame_id bigint NOT NULL,
    reason character varying(255) NOT NULL,
    priority integer NOT NULL,
    state character varying(16) NOT NULL,
    lease_owner character varying(128),
    lease_until_ns bigint,
    created_ns bigint NOT NULL,
    requested_ns bigint,
    refined_ns bigint,
    enhancement_blob character varying(255),
    enhancement_bytes integer,
    base_image character varying(255),
    enhanced_image character varying(255),
    refined_image character varying(255),
    shown_sha256 character varying(64),
    postfilter character varying(128),
    codec_model character varying(64),
    why_expired character varying(255),
    CONSTRAINT reviewstate CHECK (((state)::text = ANY ((ARRAY['due'::character varying, 'leased'::character varying, 'ready'::character varying, 'expired'::character varying, 'decided'::character varying])::text[])))
);
CREATE SEQUENCE reviews_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE reviews_id_seq OWNED BY reviews.id;
CREATE TABLE schema_version (
    version integer NOT NULL
);
CREATE SEQUENCE schema_version_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE schema_version_version_seq OWNED BY schema_version.version;
CREATE TABLE tombstones (
    id bigint NOT NULL,
    edge_id character varying(64) NOT NULL,
    boot_id character varying(32) NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    reason character varying(255) NOT NULL,
    received_ns bigint NOT NULL
);
CREATE SEQUENCE tombstones_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE tombstones_id_seq OWNED BY tombstones.id;
CREATE TABLE user_sessions (
    secret_sha256 character varying(64) NOT NULL,
    "user" character varying(64) NOT NULL,
    created_ns bigint NOT NULL,
    seen_ns bigint NOT NULL
);
CREATE TABLE users (
    name character varying(64) NOT NULL,
    role character varying(16) NOT NULL,
    password_hash character varying(255) NOT NULL,
    created_ns bigint NOT NULL,
    removed_ns bigint,
    CONSTRAINT role CHECK (((role)::text = ANY ((ARRAY['viewer'::character varying, 'reviewer'::character varying, 'admin'::character varying])::text[])))
);
CREATE TABLE verdicts (
    id bigint NOT NULL,
    review_id bigint NOT NULL,
    reviewer character varying(128) NOT NULL,
    verdict character varying(16) NOT NULL,
    note character varying(2000) NOT NULL,
    box_index integer,
    label character varying(64),
    x0 double precision,
    y0 double precision,
    x1 double precision,
    y1 double precision,
    decided_ns bigint NOT NULL,
    shown_sha256 character varying(64) NOT NULL,
    undone_ns bigint,
    CONSTRAINT verdictkind CHECK (((verdict)::text = ANY ((ARRAY['confirm'::character varying, 'reject'::character varying, 'wrong_class'::character varying, 'missed_object'::character varying, 'unsure'::character varying])::text[])))
);
CREATE SEQUENCE verdicts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE verdicts_id_seq OWNED BY verdicts.id;
ALTER TABLE ONLY api_tokens ALTER COLUMN id SET DEFAULT nextval('api_tokens_id_seq'::regclass);
ALTER TABLE ONLY audit ALTER COLUMN id SET DEFAULT nextval('audit_id_seq'::regclass);
ALTER TABLE ONLY detections ALTER COLUMN id SET DEFAULT nextval('detections_id_seq'::regclass);
ALTER TABLE ONLY frames ALTER COLUMN id SET DEFAULT nextval('frames_id_seq'::regclass);
ALTER TABLE ONLY reviews ALTER COLUMN id SET DEFAULT nextval('reviews_id_seq'::regclass);
ALTER TABLE ONLY schema_version ALTER COLUMN version SET DEFAULT nextval('schema_version_version_seq'::regclass);
ALTER TABLE ONLY tombstones ALTER COLUMN id SET DEFAULT nextval('tombstones_id_seq'::regclass);
ALTER TABLE ONLY verdicts ALTER COLUMN id SET DEFAULT nextval('verdicts_id_seq'::regclass);
INSERT INTO api_tokens VALUES (1, 'ann', 'export', 'viewer', '14ec1d532c202a26dc8f3491586f4caf3ca4173c53c8fa8193020f2a2dc21b28', 1700000110000000000, NULL, NULL);
INSERT INTO audit VALUES (1, 1700000003000000000, 'policy', 'review created', 'review/1', '{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 1, "reason": "uncertain: cat 0.50", "priority": 50}');
INSERT INTO audit VALUES (2, 1700000004000000000, 'policy', 'review created', 'review/2', '{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 2, "reason": "audit sample", "priority": 10}');
INSERT INTO audit VALUES (3, 1700000005000000000, 'policy', 'review created', 'review/3', '{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 3, "reason": "watched: dog 0.90", "priority": 90}');
INSERT INTO audit VALUES (4, 1700000007000000000, 'policy', 'review created', 'review/4', '{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 5, "reason": "every 5th frame", "priority": 20}');
INSERT INTO audit VALUES (5, 1700000101000000000, 'host-1', 'review refined', 'review/3', '{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO audit VALUES (6, 1700000102000000000, 'ann', 'verdict given', 'review/3', '{"verdict_id": 1, "verdict": "reject", "box_index": null, "label": null, "box": null, "note": "a \"mug\", not a dog; gr\u00f6\u00dfer\nthan a cat", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO audit VALUES (7, 1700000101000000000, 'host-1', 'review refined', 'review/1', '{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO audit VALUES (8, 1700000103000000000, 'bob', 'verdict given', 'review/1', '{"verdict_id": 2, "verdict": "wrong_class", "box_index": 0, "label": "fox", "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "ready"}');
INSERT INTO audit VALUES (9, 1700000104000000000, 'bob', 'verdict given', 'review/1', '{"verdict_id": 3, "verdict": "confirm", "box_index": null, "label": null, "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO audit VALUES (10, 1700000105000000000, 'bob', 'verdict undone', 'review/1', '{"verdict_id": 3, "verdict": "confirm", "state_before": "decided", "state_after": "ready"}');
INSERT INTO audit VALUES (11, 1700000106000000000, 'host-1', 'review expired', 'review/4', '{"why": "enhancement expired: deadline"}');
INSERT INTO audit VALUES (12, 1700000101000000000, 'host-1', 'review refined', 'review/2', '{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO audit VALUES (13, 1700000107000000000, 'ann', 'verdict given', 'review/2', '{"verdict_id": 4, "verdict": "missed_object", "box_index": null, "label": "bird", "box": [1.5, 2.0, 10.0, 20.0], "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "ready"}');
INSERT INTO audit VALUES (14, 1700000108000000000, 'ann', 'verdict given', 'review/2', '{"verdict_id": 5, "verdict": "unsure", "box_index": null, "label": null, "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO audit VALUES (15, 1700000109000000000, 'root (command line)', 'user added', 'user ann', '{"role": "admin"}');
INSERT INTO audit VALUES (16, 1700000110000000000, 'ann', 'token made', 'user ann', '{"token_id": 1, "label": "export", "role": "viewer"}');
INSERT INTO cameras VALUES ('gate', 'yard, north', 1700000002000000000, 1700000007000000000);
INSERT INTO cameras VALUES ('barn', 'yard, north', 1700000009000000000, 1700000009000000000);
INSERT INTO detections VALUES (1, 2, 'cat', 0.5, 1, 2, 30, 40, 'tiny');
INSERT INTO detections VALUES (2, 2, 'dog', 0.9, 3.25, 2, 31, 41, 'tiny');
INSERT INTO detections VALUES (3, 4, 'cat', 0.5, 1, 2, 30, 40, 'tiny');
INSERT INTO detections VALUES (4, 4, 'dog', 0.9, 3.25, 2, 31, 41, 'tiny');
INSERT INTO detections VALUES (5, 6, 'cat', 0.5, 1, 2, 30, 40, 'tiny');
INSERT INTO detections VALUES (6, 6, 'dog', 0.9, 3.25, 2, 31, 41, 'tiny');
INSERT INTO detections VALUES (7, 7, 'cat', 0.5, 1, 2, 30, 40, 'tiny');
INSERT INTO detections VALUES (8, 7, 'dog', 0.9, 3.25, 2, 31, 41, 'tiny');
INSERT INTO frames VALUES (1, 'gate', 'abababababababababababababababab', 0, 1700000000000000000, 1700000001000000000, 1700000002000000000, 64, 48, NULL, 'base/gate/abababababababababababababababab/0.slk', 100, 900);
INSERT INTO frames VALUES (2, 'gate', 'abababababababababababababababab', 1, 1700000001000000000, 1700000002000000000, 1700000003000000000, 64, 48, 0, 'base/gate/abababababababababababababababab/1.slk', 101, 900);
INSERT INTO frames VALUES (3, 'gate', 'abababababababababababababababab', 2, 1700000002000000000, 1700000003000000000, 1700000004000000000, 64, 48, 0, 'base/gate/abababababababababababababababab/2.slk', 102, 900);
INSERT INTO frames VALUES (4, 'gate', 'abababababababababababababababab', 3, 1700000003000000000, 1700000004000000000, 1700000005000000000, 64, 48, 0, 'base/gate/abababababababababababababababab/3.slk', 103, 900);
INSERT INTO frames VALUES (5, 'gate', 'abababababababababababababababab', 4, 1700000004000000000, 1700000005000000000, 1700000006000000000, 64, 48, NULL, 'base/gate/abababababababababababababababab/4.slk', 104, 900);
INSERT INTO frames VALUES (6, 'gate', 'abababababababababababababababab', 5, 1700000005000000000, 1700000006000000000, 1700000007000000000, 64, 48, 4, 'base/gate/abababababababababababababababab/5.slk', 105, 900);
INSERT INTO frames VALUES (7, 'barn', 'abababababababababababababababab', 7, 1700000007000000000, 1700000008000000000, 1700000009000000000, 64, 48, NULL, 'base/barn/abababababababababababababababab/7.slk', 107, 900);
INSERT INTO reviews VALUES (3, 4, 'watched: dog 0.90', 90, 'decided', NULL, NULL, 1700000005000000000, 1700000100000000000, 1700000101000000000, 'enhancement/gate/abababababababababababababababab/3.slk', 900, 'image/3/base.png', 'image/3/enhanced.png', 'image/3/refined.png', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 'rrdb-l1:00', '0011', NULL);
INSERT INTO reviews VALUES (1, 2, 'uncertain: cat 0.50', 50, 'ready', NULL, NULL, 1700000003000000000, 1700000100000000000, 1700000101000000000, 'enhancement/gate/abababababababababababababababab/1.slk', 900, 'image/1/base.png', 'image/1/enhanced.png', 'image/1/refined.png', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 'rrdb-l1:00', '0011', NULL);
INSERT INTO reviews VALUES (4, 6, 'every 5th frame', 20, 'expired', NULL, NULL, 1700000007000000000, 1700000100000000000, NULL, NULL, NULL, 'image/4/base.png', NULL, NULL, 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', NULL, NULL, 'enhancement expired: deadline');
INSERT INTO reviews VALUES (2, 3, 'audit sample', 10, 'decided', NULL, NULL, 1700000004000000000, 1700000100000000000, 1700000101000000000, 'enhancement/gate/abababababababababababababababab/2.slk', 900, 'image/2/base.png', 'image/2/enhanced.png', 'image/2/refined.png', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 'rrdb-l1:00', '0011', NULL);
INSERT INTO schema_version VALUES (1);
INSERT INTO tombstones VALUES (1, 'gate', 'abababababababababababababababab', 6, 9, 'spool-full', 1700000050000000000);
INSERT INTO users VALUES ('ann', 'admin', '$argon2id$v=19$m=65536,t=3,p=4$j6TzRao3ucyQj8cyOMLi7Q$mK5bIbEhQMP8ty89Cv115vgl/QKE9O0u6Fj9u9JFv6k', 1700000109000000000, NULL);
INSERT INTO verdicts VALUES (1, 3, 'ann', 'reject', 'a "mug", not a dog; größer
than a cat', NULL, NULL, NULL, NULL, NULL, NULL, 1700000102000000000, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', NULL);
INSERT INTO verdicts VALUES (2, 1, 'bob', 'wrong_class', '', 0, 'fox', NULL, NULL, NULL, NULL, 1700000103000000000, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', NULL);
INSERT INTO verdicts VALUES (3, 1, 'bob', 'confirm', '', NULL, NULL, NULL, NULL, NULL, NULL, 1700000104000000000, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 1700000105000000000);
INSERT INTO verdicts VALUES (4, 2, 'ann', 'missed_object', '', NULL, 'bird', 1.5, 2, 10, 20, 1700000107000000000, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', NULL);
INSERT INTO verdicts VALUES (5, 2, 'ann', 'unsure', '', NULL, NULL, NULL, NULL, NULL, NULL, 1700000108000000000, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', NULL);
SELECT pg_catalog.setval('api_tokens_id_seq', 1, true);
SELECT pg_catalog.setval('audit_id_seq', 16, true);
SELECT pg_catalog.setval('detections_id_seq', 8, true);
SELECT pg_catalog.setval('frames_id_seq', 7, true);
SELECT pg_catalog.setval('reviews_id_seq', 4, true);
SELECT pg_catalog.setval('schema_version_version_seq', 1, false);
SELECT pg_catalog.setval('tombstones_id_seq', 1, true);
SELECT pg_catalog.setval('verdicts_id_seq', 5, true);
ALTER TABLE ONLY api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (id);
ALTER TABLE ONLY api_tokens
    ADD CONSTRAINT api_tokens_secret_sha256_key UNIQUE (secret_sha256);
ALTER TABLE ONLY audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cameras
    ADD CONSTRAINT cameras_pkey PRIMARY KEY (edge_id);
ALTER TABLE ONLY detections
    ADD CONSTRAINT detections_pkey PRIMARY KEY (id);
ALTER TABLE ONLY frames
    ADD CONSTRAINT frames_edge_id_boot_id_seq_key UNIQUE (edge_id, boot_id, seq);
ALTER TABLE ONLY frames
    ADD CONSTRAINT frames_pkey PRIMARY KEY (id);
ALTER TABLE ONLY reviews
    ADD CONSTRAINT reviews_frame_id_key UNIQUE (frame_id);
ALTER TABLE ONLY reviews
    ADD CONSTRAINT reviews_pkey PRIMARY KEY (id);
ALTER TABLE ONLY schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY tombstones
    ADD CONSTRAINT tombstones_edge_id_boot_id_first_seq_last_seq_key UNIQUE (edge_id, boot_id, first_seq, last_seq);
ALTER TABLE ONLY tombstones
    ADD CONSTRAINT tombstones_pkey PRIMARY KEY (id);
ALTER TABLE ONLY user_sessions
    ADD CONSTRAINT user_sessions_pkey PRIMARY KEY (secret_sha256);
ALTER TABLE ONLY users
    ADD CONSTRAINT users_pkey PRIMARY KEY (name);
ALTER TABLE ONLY verdicts
    ADD CONSTRAINT verdicts_pkey PRIMARY KEY (id);
CREATE INDEX frames_captured ON frames USING btree (captured_ns);
CREATE INDEX frames_of_host ON frames USING btree (edge_id, captured_ns);
CREATE INDEX ix_api_tokens_user ON api_tokens USING btree ("user");
CREATE INDEX ix_audit_subject ON audit USING btree (subject);
CREATE INDEX ix_detections_frame_id ON detections USING btree (frame_id);
CREATE INDEX ix_user_sessions_user ON user_sessions USING btree ("user");
CREATE INDEX ix_verdicts_review_id ON verdicts USING btree (review_id);
CREATE INDEX reviews_order ON reviews USING btree (state, priority, created_ns);
ALTER TABLE ONLY api_tokens
    ADD CONSTRAINT api_tokens_user_fkey FOREIGN KEY ("user") REFERENCES users(name);
ALTER TABLE ONLY detections
    ADD CONSTRAINT detections_frame_id_fkey FOREIGN KEY (frame_id) REFERENCES frames(id);
ALTER TABLE ONLY frames
    ADD CONSTRAINT frames_edge_id_fkey FOREIGN KEY (edge_id) REFERENCES cameras(edge_id);
ALTER TABLE ONLY reviews
    ADD CONSTRAINT reviews_frame_id_fkey FOREIGN KEY (frame_id) REFERENCES frames(id);
ALTER TABLE ONLY user_sessions
    ADD CONSTRAINT user_sessions_user_fkey FOREIGN KEY ("user") REFERENCES users(name);
ALTER TABLE ONLY verdicts
    ADD CONSTRAINT verdicts_review_id_fkey FOREIGN KEY (review_id) REFERENCES reviews(id);
