CREATE TABLE types (
 id int PRIMARY KEY, tiny tinyint, flag tinyint(1), tiny_u tinyint unsigned, small smallint, small_u smallint unsigned, medium mediumint, medium_u mediumint unsigned,
 middle int, middle_u int unsigned zerofill, large bigint, large_u bigint unsigned, single float, double_ double, exact decimal(12,3), exact_u decimal(9,2) unsigned, wide decimal(38,10), whole decimal(20,0),
 one_bit bit(1), bits bit(12), all_bits bit(64), short char(5), letters varchar(20), latin varchar(300) CHARACTER SET latin1, chinese text CHARACTER SET gbk, wide_text longtext CHARACTER SET utf16, ucs varchar(9) CHARACTER SET ucs2,
 tiny_text tinytext, medium_text mediumtext, padded binary(4), raw varbinary(300), tiny_raw tinyblob, some_raw blob, large_raw longblob,
 feeling enum('it''s ok','happy'), tastes set('x','y','z'), document json, day date, hour time(6), hour3 time(3), hour0 time, local0 datetime, local3 datetime(3), local6 datetime(6),
 moment timestamp NULL, moment5 timestamp(5) NULL, moment6 timestamp(6) NULL, vintage year, place point, area geometry, way linestring, land polygon, places multipoint, ways multilinestring, lands multipolygon, bag geometrycollection,
 computed int AS (small + 1) STORED, identity_ uuid
) CHARACTER SET utf8mb4;
INSERT INTO types (id) VALUES (1);
INSERT INTO types VALUES (2, -128, 1, 255, -32768, 65535, -8388608, 16777215,
 -2147483648, 4294967295, -9223372036854775808, 18446744073709551615, 0.1, 1.7976931348623157e308, -123456789.012, 1234567.80, -1234567890123456789012345678.0123456789, 18446744073709551616,
 b'1', b'101000000001', b'1000000000000000000000000000000000000000000000000000000000000001', 'abc', 'a\\b"c\n,\t''ü😀', '€é', '中文', '中😀', 'üж',
 'a\0b', 'tëxt', x'0102', x'00ff00', x'01', x'80', x'00ff', 'it''s ok', 'z,x', '{"a": [1, "ü"]}', '2024-02-29', '23:59:59.000001', '-00:00:00.5', '-838:59:59', '2024-01-02 03:04:05', '2024-01-02 03:04:05.678', '9999-12-31 23:59:59.999999',
 '2024-01-02 03:04:05', '2024-01-02 03:04:05.12345', '2038-01-19 03:14:07.999999', 2024, ST_GeomFromText('POINT(1.5 -2)', 4326), ST_GeomFromText('POINT(1.5 -2)'), ST_GeomFromText('LINESTRING(0 0,1 1)'), ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))'), ST_GeomFromText('MULTIPOINT(0 0,1 1)'), ST_GeomFromText('MULTILINESTRING((0 0,1 1),(2 2,3 3))'), ST_GeomFromText('MULTIPOLYGON(((0 0,0 1,1 1,0 0)))'), ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))'),
 DEFAULT, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A00');
INSERT INTO types (id, flag, large, large_u, single, double_, exact, day, hour, hour0, local0, local6, moment, vintage, tastes, letters, raw, feeling, short, one_bit, all_bits, identity_) VALUES
 (3, 0, 9223372036854775807, 9223372036854775808, -3.4e38, 4.9e-324, 0.001, '0001-01-01', '00:00:00.000001', '838:59:59', '1000-01-01 00:00:00', '0001-01-01 00:00:00.000001', '1970-01-01 00:00:01', 1901, '', '', '', 'happy', 'ab   ', b'0', 0, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
 (4, 2, 9007199254740993, 1, 1e-40, -0.0, -0.001, '9999-12-31', '-00:00:00.000001', '24:00:00', '9999-12-31 23:59:59', '2024-02-29 12:34:56.789012', '2038-01-19 03:14:07', 2155, 'x', ' padded ', x'00', 'happy', '', NULL, b'1', NULL),
 (5, NULL, 0, 0, 0, 0, 0, '0000-00-00', '00:00:00', '-00:00:01', '0000-00-00 00:00:00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', 0, 'x,y,z', 'ü', x'', 'none', 'ü', NULL, NULL, NULL);
CREATE TABLE customers (id int PRIMARY KEY, name varchar(50) NOT NULL, visits int NOT NULL DEFAULT 7, email varchar(20)) CHARACTER SET utf8mb4;
INSERT INTO customers VALUES (1,'Ann',1,'ann@example.org'),(2,'Bob',2,NULL);
CREATE TABLE `lines` (order_id bigint, line smallint, sku varchar(200) CHARACTER SET utf8mb4, PRIMARY KEY (order_id, line));
INSERT INTO `lines` VALUES (10,1,'A');
CREATE TABLE docs (word varchar(30) CHARACTER SET utf8mb4 PRIMARY KEY, body longtext CHARACTER SET utf8mb4, raw longblob);
INSERT INTO docs VALUES ('one', repeat('x', 90000), repeat(x'00ff', 45000));
CREATE TABLE others (id int PRIMARY KEY)
