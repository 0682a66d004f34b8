BEGIN TRANSACTION;
CREATE TABLE api_tokens (
	id INTEGER NOT NULL, 
	user VARCHAR(64) NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	secret_sha256 VARCHAR(64) NOT NULL, 
	created_ns BIGINT NOT NULL, 
	expires_ns BIGINT, 
	revoked_ns BIGINT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(user) REFERENCES users (name), 
	CONSTRAINT role CHECK (role IN ('viewer', 'reviewer', 'admin')), 
	UNIQUE (secret_sha256)
);
INSERT INTO "api_tokens" VALUES(1,'ann','export','viewer','32ad8b3e46ee292baa271e635e774c5de391b13942c195927fbb5a94d67e2a15',1700000110000000000,NULL,NULL);
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at_ns BIGINT NOT NULL, 
	actor VARCHAR(128) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject VARCHAR(255) NOT NULL, 
	detail JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit" VALUES(1,1700000003000000000,'policy','review created','review/1','{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 1, "reason": "uncertain: cat 0.50", "priority": 50}');
INSERT INTO "audit" VALUES(2,1700000004000000000,'policy','review created','review/2','{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 2, "reason": "audit sample", "priority": 10}');
INSERT INTO "audit" VALUES(3,1700000005000000000,'policy','review created','review/3','{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 3, "reason": "watched: dog 0.90", "priority": 90}');
INSERT INTO "audit" VALUES(4,1700000007000000000,'policy','review created','review/4','{"edge_id": "gate", "boot_id": "abababababababababababababababab", "seq": 5, "reason": "every 5th frame", "priority": 20}');
INSERT INTO "audit" VALUES(5,1700000101000000000,'host-1','review refined','review/3','{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO "audit" VALUES(6,1700000102000000000,'ann','verdict given','review/3','{"verdict_id": 1, "verdict": "reject", "box_index": null, "label": null, "box": null, "note": "a \"mug\", not a dog; gr\u00f6\u00dfer\nthan a cat", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO "audit" VALUES(7,1700000101000000000,'host-1','review refined','review/1','{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO "audit" VALUES(8,1700000103000000000,'bob','verdict given','review/1','{"verdict_id": 2, "verdict": "wrong_class", "box_index": 0, "label": "fox", "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "ready"}');
INSERT INTO "audit" VALUES(9,1700000104000000000,'bob','verdict given','review/1','{"verdict_id": 3, "verdict": "confirm", "box_index": null, "label": null, "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO "audit" VALUES(10,1700000105000000000,'bob','verdict undone','review/1','{"verdict_id": 3, "verdict": "confirm", "state_before": "decided", "state_after": "ready"}');
INSERT INTO "audit" VALUES(11,1700000106000000000,'host-1','review expired','review/4','{"why": "enhancement expired: deadline"}');
INSERT INTO "audit" VALUES(12,1700000101000000000,'host-1','review refined','review/2','{"shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "postfilter": "rrdb-l1:00", "codec_model": "0011"}');
INSERT INTO "audit" VALUES(13,1700000107000000000,'ann','verdict given','review/2','{"verdict_id": 4, "verdict": "missed_object", "box_index": null, "label": "bird", "box": [1.5, 2.0, 10.0, 20.0], "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "ready"}');
INSERT INTO "audit" VALUES(14,1700000108000000000,'ann','verdict given','review/2','{"verdict_id": 5, "verdict": "unsure", "box_index": null, "label": null, "box": null, "note": "", "shown_sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "codec_model": "0011", "postfilter": "rrdb-l1:00", "state_before": "ready", "state_after": "decided"}');
INSERT INTO "audit" VALUES(15,1700000109000000000,'root (command line)','user added','user ann','{"role": "admin"}');
INSERT INTO "audit" VALUES(16,1700000110000000000,'ann','token made','user ann','{"token_id": 1, "label": "export", "role": "viewer"}');
CREATE TABLE cameras (
	edge_id VARCHAR(64) NOT NULL, 
	camera VARCHAR(255) NOT NULL, 
	first_seen_ns BIGINT NOT NULL, 
	last_seen_ns BIGINT NOT NULL, 
	PRIMARY KEY (edge_id)
);
INSERT INTO "cameras" VALUES('gate','yard, north',1700000002000000000,1700000007000000000);
INSERT INTO "cameras" VALUES('barn','yard, north',1700000009000000000,1700000009000000000);
CREATE TABLE detections (
	id INTEGER NOT NULL, 
	frame_id INTEGER NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	score FLOAT NOT NULL, 
	x0 FLOAT NOT NULL, 
	y0 FLOAT NOT NULL, 
	x1 FLOAT NOT NULL, 
	y1 FLOAT NOT NULL, 
	detector VARCHAR(255) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(frame_id) REFERENCES frames (id)
);
INSERT INTO "detections" VALUES(1,2,'cat',0.5,1.0,2.0,30.0,40.0,'tiny');
INSERT INTO "detections" VALUES(2,2,'dog',0.9,3.25,2.0,31.0,41.0,'tiny');
INSERT INTO "detections" VALUES(3,4,'cat',0.5,1.0,2.0,30.0,40.0,'tiny');
INSERT INTO "detections" VALUES(4,4,'dog',0.9,3.25,2.0,31.0,41.0,'tiny');
INSERT INTO "detections" VALUES(5,6,'cat',0.5,1.0,2.0,30.0,40.0,'tiny');
INSERT INTO "detections" VALUES(6,6,'dog',0.9,3.25,2.0,31.0,41.0,'tiny');
INSERT INTO "detections" VALUES(7,7,'cat',0.5,1.0,2.0,30.0,40.0,'tiny');
INSERT INTO "detections" VALUES(8,7,'dog',0.9,3.25,2.0,31.0,41.0,'tiny');
CREATE TABLE frames (
	id INTEGER NOT NULL, 
	edge_id VARCHAR(64) NOT NULL, 
	boot_id VARCHAR(32) NOT NULL, 
	seq BIGINT NOT NULL, 
	captured_ns BIGINT NOT NULL, 
	received_ns BIGINT NOT NULL, 
	detected_ns BIGINT NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	key_seq BIGINT, 
	base_blob VARCHAR(255) NOT NULL, 
	base_bytes INTEGER NOT NULL, 
	enhancement_bytes INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (edge_id, boot_id, seq), 
	FOREIGN KEY(edge_id) REFERENCES cameras (edge_id)
);
INSERT INTO "frames" VALUES(1,'gate','abababababababababababababababab',0,1700000000000000000,1700000001000000000,1700000002000000000,64,48,NULL,'base/gate/abababababababababababababababab/0.slk',100,900);
INSERT INTO "frames" VALUES(2,'gate','abababababababababababababababab',1,1700000001000000000,1700000002000000000,1700000003000000000,64,48,0,'base/gate/abababababababababababababababab/1.slk',101,900);
INSERT INTO "frames" VALUES(3,'gate','abababababababababababababababab',2,1700000002000000000,1700000003000000000,1700000004000000000,64,48,0,'base/gate/abababababababababababababababab/2.slk',102,900);
INSERT INTO "frames" VALUES(4,'gate','abababababababababababababababab',3,1700000003000000000,1700000004000000000,1700000005000000000,64,48,0,'base/gate/abababababababababababababababab/3.slk',103,900);
INSERT INTO "frames" VALUES(5,'gate','abababababababababababababababab',4,1700000004000000000,1700000005000000000,1700000006000000000,64,48,NULL,'base/gate/abababababababababababababababab/4.slk',104,900);
INSERT INTO "frames" VALUES(6,'gate','abababababababababababababababab',5,1700000005000000000,1700000006000000000,1700000007000000000,64,48,4,'base/gate/abababababababababababababababab/5.slk',105,900);
INSERT INTO "frames" VALUES(7,'barn','abababababababababababababababab',7,1700000007000000000,1700000008000000000,1700000009000000000,64,48,NULL,'base/barn/abababababababababababababababab/7.slk',107,900);
CREATE TABLE reviews (
	id INTEGER NOT NULL, 
	frame_id INTEGER NOT NULL, 
	reason VARCHAR(255) NOT NULL, 
	priority INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	lease_owner VARCHAR(128), 
	lease_until_ns BIGINT, 
	created_ns BIGINT NOT NULL, 
	requested_ns BIGINT, 
	refined_ns BIGINT, 
	enhancement_blob VARCHAR(255), 
	enhancement_bytes INTEGER, 
	base_image VARCHAR(255), 
	enhanced_image VARCHAR(255), 
	refined_image VARCHAR(255), 
	shown_sha256 VARCHAR(64), 
	postfilter VARCHAR(128), 
	codec_model VARCHAR(64), 
	why_expired VARCHAR(255), 
	PRIMARY KEY (id), 
	UNIQUE (frame_id), 
	FOREIGN KEY(frame_id) REFERENCES frames (id), 
	CONSTRAINT reviewstate CHECK (state IN ('due', 'leased', 'ready', 'expired', 'decided'))
);
INSERT INTO "reviews" VALUES(1,2,'uncertain: cat 0.50',50,'ready',NULL,NULL,1700000003000000000,1700000100000000000,1700000101000000000,'enhancement/gate/abababababababababababababababab/1.slk',900,'image/1/base.png','image/1/enhanced.png','image/1/refined.png','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','rrdb-l1:00','0011',NULL);
INSERT INTO "reviews" VALUES(2,3,'audit sample',10,'decided',NULL,NULL,1700000004000000000,1700000100000000000,1700000101000000000,'enhancement/gate/abababababababababababababababab/2.slk',900,'image/2/base.png','image/2/enhanced.png','image/2/refined.png','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','rrdb-l1:00','0011',NULL);
INSERT INTO "reviews" VALUES(3,4,'watched: dog 0.90',90,'decided',NULL,NULL,1700000005000000000,1700000100000000000,1700000101000000000,'enhancement/gate/abababababababababababababababab/3.slk',900,'image/3/base.png','image/3/enhanced.png','image/3/refined.png','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','rrdb-l1:00','0011',NULL);
INSERT INTO "reviews" VALUES(4,6,'every 5th frame',20,'expired',NULL,NULL,1700000007000000000,1700000100000000000,NULL,NULL,NULL,'image/4/base.png',NULL,NULL,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',NULL,NULL,'enhancement expired: deadline');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE tombstones (
	id INTEGER NOT NULL, 
	edge_id VARCHAR(64) NOT NULL, 
	boot_id VARCHAR(32) NOT NULL, 
	first_seq BIGINT NOT NULL, 
	last_seq BIGINT NOT NULL, 
	reason VARCHAR(255) NOT NULL, 
	received_ns BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (edge_id, boot_id, first_seq, last_seq)
);
INSERT INTO "tombstones" VALUES(1,'gate','abababababababababababababababab',6,9,'spool-full',1700000050000000000);
CREATE TABLE user_sessions (
	secret_sha256 VARCHAR(64) NOT NULL, 
	user VARCHAR(64) NOT NULL, 
	created_ns BIGINT NOT NULL, 
	seen_ns BIGINT NOT NULL, 
	PRIMARY KEY (secret_sha256), 
	FOREIGN KEY(user) REFERENCES users (name)
);
CREATE TABLE users (
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	password_hash VARCHAR(255) NOT NULL, 
	created_ns BIGINT NOT NULL, 
	removed_ns BIGINT, 
	PRIMARY KEY (name), 
	CONSTRAINT role CHECK (role IN ('viewer', 'reviewer', 'admin'))
);
INSERT INTO "users" VALUES('ann','admin','$argon2id$v=19$m=65536,t=3,p=4$mkSRvoQc3MlcMiE6/GuMNw$0BYkftX83olAyAaL9GVWBESDSbi9ojdAExY2fZ5RyAE',1700000109000000000,NULL);
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	review_id INTEGER NOT NULL, 
	reviewer VARCHAR(128) NOT NULL, 
	verdict VARCHAR(16) NOT NULL, 
	note VARCHAR(2000) NOT NULL, 
	box_index INTEGER, 
	label VARCHAR(64), 
	x0 FLOAT, 
	y0 FLOAT, 
	x1 FLOAT, 
	y1 FLOAT, 
	decided_ns BIGINT NOT NULL, 
	shown_sha256 VARCHAR(64) NOT NULL, 
	undone_ns BIGINT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(review_id) REFERENCES reviews (id), 
	CONSTRAINT verdictkind CHECK (verdict IN ('confirm', 'reject', 'wrong_class', 'missed_object', 'unsure'))
);
INSERT INTO "verdicts" VALUES(1,3,'ann','reject','a "mug", not a dog; größer
than a cat',NULL,NULL,NULL,NULL,NULL,NULL,1700000102000000000,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL);
INSERT INTO "verdicts" VALUES(2,1,'bob','wrong_class','',0,'fox',NULL,NULL,NULL,NULL,1700000103000000000,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL);
INSERT INTO "verdicts" VALUES(3,1,'bob','confirm','',NULL,NULL,NULL,NULL,NULL,NULL,1700000104000000000,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',1700000105000000000);
INSERT INTO "verdicts" VALUES(4,2,'ann','missed_object','',NULL,'bird',1.5,2.0,10.0,20.0,1700000107000000000,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL);
INSERT INTO "verdicts" VALUES(5,2,'ann','unsure','',NULL,NULL,NULL,NULL,NULL,NULL,1700000108000000000,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL);
CREATE INDEX ix_audit_subject ON audit (subject);
CREATE INDEX frames_of_host ON frames (edge_id, captured_ns);
CREATE INDEX frames_captured ON frames (captured_ns);
CREATE INDEX ix_user_sessions_user ON user_sessions (user);
CREATE INDEX ix_api_tokens_user ON api_tokens (user);
CREATE INDEX ix_detections_frame_id ON detections (frame_id);
CREATE INDEX reviews_order ON reviews (state, priority, created_ns);
CREATE INDEX ix_verdicts_review_id ON verdicts (review_id);
COMMIT;
